#include "parallel/experts/dispatch_steps.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// A row of sums in fp32, rounded to the row type once.
class RowSum {
 public:
  explicit RowSum(const RowLayout& layout)
      : dtype_(layout.dtype), sum_(static_cast<size_t>(layout.hidden)) {}

  void Clear() { std::fill(sum_.begin(), sum_.end(), 0.0F); }

  // The product is rounded before it is added, as in MoeFinalize of the reference backend.
  void Add(float weight, const char* row) {
    float* __restrict sum = sum_.data();
    const auto n = static_cast<int64_t>(sum_.size());
    if (dtype_ == DType::kF32) {
      const auto* from = reinterpret_cast<const float*>(row);
      for (int64_t i = 0; i < n; ++i) sum[i] += weight * from[i];
    } else {
      const auto* from = reinterpret_cast<const uint16_t*>(row);
      for (int64_t i = 0; i < n; ++i) sum[i] += weight * BF16ToFloat(from[i]);
    }
  }

  void Store(char* row) const {
    if (dtype_ == DType::kF32) {
      std::memcpy(row, sum_.data(), sum_.size() * sizeof(float));
      return;
    }
    auto* to = reinterpret_cast<uint16_t*>(row);
    for (size_t i = 0; i < sum_.size(); ++i) to[i] = FloatToBF16(sum_[i]);
  }

 private:
  DType dtype_;
  std::vector<float> sum_;
};

const int32_t* HeaderOf(const RowLayout& layout, const ReceivedRows& rows, int64_t row) {
  return rows.headers + row * HeaderWords(layout.row_slots);
}

// Calls visit(row, header) for every used row, sources ascending, then tokens.
template <typename Visit>
void ForEachRow(const RowLayout& layout, const ReceivedRows& rows, const Visit& visit) {
  for (int64_t s = 0; s < layout.num_ranks; ++s) {
    for (int64_t i = 0; i < rows.recv_counts[s]; ++i) {
      const int64_t row = s * layout.capacity + i;
      visit(row, HeaderOf(layout, rows, row));
    }
  }
}

void CountPadded(const RowLayout& layout, const ReceivedRows& rows) {
  for (int64_t s = 0; s < layout.num_ranks; ++s) {
    int64_t count = 0;
    while (count < layout.capacity &&
           HeaderOf(layout, rows, s * layout.capacity + count)[RowHeader::kNumSlots] != 0) {
      ++count;
    }
    rows.recv_counts[s] = static_cast<int32_t>(count);
  }
}

// Headers come from peers: believe nothing. Counts the rows of every slot into offsets[slot + 1].
absl::Status CountSlots(const RowLayout& layout, const ReceivedRows& rows) {
  for (int64_t s = 0; s < layout.num_ranks; ++s) {
    int32_t pairs = 0;
    for (int64_t i = 0; i < rows.recv_counts[s]; ++i) {
      const int32_t* header = HeaderOf(layout, rows, s * layout.capacity + i);
      const int32_t n = header[RowHeader::kNumSlots];
      bool good = n >= 1 && n <= layout.row_slots;
      for (int32_t j = 0; good && j < n; ++j) {
        const int32_t slot = header[RowHeader::kSlots + j];
        good = slot >= 0 && slot < layout.slots_per_rank;
        if (good) ++rows.offsets[slot + 1];
      }
      if (!good) {
        return absl::InternalError(
            absl::StrCat("row ", i, " from rank ", s, " has an impossible list of experts"));
      }
      pairs += n;
    }
    rows.pair_counts[s] = pairs;
  }
  return absl::OkStatus();
}

}  // namespace

void PackRows(const RowLayout& layout, const ConstRows& x, const PlanOutput& plan,
              const Rows& chunks) {
  for (int64_t d = 0; d < layout.num_ranks; ++d) {
    for (int64_t i = 0; i < plan.send_counts[d]; ++i) {
      const int64_t row = d * layout.capacity + i;
      std::memcpy(chunks[row], x[plan.send_tokens[row]], layout.row_bytes());
    }
  }
}

absl::Status SortRows(const RowLayout& layout, bool padded, const ReceivedRows& rows) {
  if (padded) CountPadded(layout, rows);
  std::fill_n(rows.offsets, layout.slots_per_rank + 1, 0);
  if (absl::Status status = CountSlots(layout, rows); !status.ok()) return status;
  for (int32_t e = 0; e < layout.slots_per_rank; ++e) rows.offsets[e + 1] += rows.offsets[e];
  std::vector<int32_t> next(rows.offsets, rows.offsets + layout.slots_per_rank);
  ForEachRow(layout, rows, [&](int64_t row, const int32_t* header) {
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      const int32_t sorted = next[header[RowHeader::kSlots + j]]++;
      rows.row_index[sorted] = static_cast<int32_t>(row);
      rows.sorted_row[row * layout.row_slots + j] = sorted;
    }
  });
  return absl::OkStatus();
}

void SumResults(const RowLayout& layout, const ReceivedRows& rows, const ConstRows& y,
                const Rows& chunks) {
  RowSum sum(layout);
  ForEachRow(layout, rows, [&](int64_t row, const int32_t* header) {
    sum.Clear();
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      sum.Add(HeaderWeight(header, layout.row_slots, j),
              y[rows.sorted_row[row * layout.row_slots + j]]);
    }
    sum.Store(chunks[row]);
  });
}

void PackResults(const RowLayout& layout, const ReceivedRows& rows, const ConstRows& y,
                 const Rows& chunks) {
  int64_t source = -1;
  int64_t to = 0;
  ForEachRow(layout, rows, [&](int64_t row, const int32_t* header) {
    if (row / layout.capacity != source) {
      source = row / layout.capacity;
      to = source * layout.capacity * layout.row_slots;
    }
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      std::memcpy(chunks[to++], y[rows.sorted_row[row * layout.row_slots + j]], layout.row_bytes());
    }
  });
}

void AddRanks(const RowLayout& layout, int64_t num_tokens, const int32_t* token_rows,
              const ConstRows& chunks, const Rows& out) {
  RowSum sum(layout);
  for (int64_t t = 0; t < num_tokens; ++t) {
    sum.Clear();
    const int32_t* rows = token_rows + t * layout.token_row_slots();
    for (int32_t i = 0; i < layout.token_row_slots() && rows[i] >= 0; ++i) {
      sum.Add(1.0F, chunks[rows[i]]);
    }
    sum.Store(out[t]);
  }
}

void AddChoices(const RowLayout& layout, int64_t num_tokens, const int32_t* pair_rows,
                const float* weights, const ConstRows& chunks, const Rows& out) {
  RowSum sum(layout);
  for (int64_t t = 0; t < num_tokens; ++t) {
    sum.Clear();
    for (int64_t pair = t * layout.top_k; pair < (t + 1) * layout.top_k; ++pair) {
      if (pair_rows[pair] >= 0) sum.Add(weights[pair], chunks[pair_rows[pair]]);
    }
    sum.Store(out[t]);
  }
}

}  // namespace tessera
