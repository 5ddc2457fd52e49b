// Rows on their way to the ranks that hold their experts, and results on their way back.
#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/operations.h"

namespace tessera::cpu {
namespace {

// Tokens that one task plans. Steps of fewer need no scan over tasks.
constexpr int64_t kBlockTokens = 256;

// Keeps the first `used` entries of `rows` ascending and free of duplicates.
int32_t InsertRow(int32_t* rows, int32_t used, int32_t row) {
  int32_t at = used;
  while (at > 0 && rows[at - 1] > row) --at;
  if (at > 0 && rows[at - 1] == row) return used;
  for (int32_t i = used; i > at; --i) rows[i] = rows[i - 1];
  rows[at] = row;
  return used + 1;
}

// Rows and pairs per destination: how many there were so far.
struct Counts {
  int32_t* rows;
  int32_t* pairs;
};

class DispatchPlanner {
 public:
  explicit DispatchPlanner(const PlanDispatchArgs& args)
      : args_(args), placement_(args.placement.view()), m_(args.shape.row_slots()) {}

  // Adds what tokens [begin, end) send. False for an expert that does not exist.
  bool Count(int64_t begin, int64_t end, const Counts& counts) const {
    int64_t* last = NoTokens();
    for (int64_t t = begin; t < end; ++t) {
      for (int32_t j = 0; j < args_.shape.top_k; ++j) {
        const int32_t id = ids()[t * args_.shape.top_k + j];
        if (id < 0) continue;
        if (id >= placement_.num_experts) return false;
        const int32_t to = ChooseSlot(placement_, id, args_.rank, t) / args_.shape.slots_per_rank;
        ++counts.pairs[to];
        if (last[to] != t) ++counts.rows[to];
        last[to] = t;
      }
    }
    return true;
  }

  // Appends tokens [begin, end) to the chunks. False also when a token has too many choices on one
  // rank.
  bool Write(int64_t begin, int64_t end, const Counts& counts) const {
    int64_t* last = NoTokens();
    for (int64_t t = begin; t < end; ++t) {
      if (!WriteToken(t, counts, last)) return false;
    }
    return true;
  }

 private:
  const int32_t* ids() const { return args_.ids.as<int32_t>(); }

  // Per destination, the last token that was sent there.
  int64_t* NoTokens() const {
    int64_t* last = Scratch<int64_t>(args_.shape.num_ranks);
    std::fill_n(last, args_.shape.num_ranks, -1);
    return last;
  }

  bool WriteToken(int64_t t, const Counts& counts, int64_t* last) const {
    const DispatchShape& shape = args_.shape;
    int32_t* rows = args_.token_rows.as<int32_t>() + t * shape.rows_per_token();
    int32_t used = 0;
    for (int64_t pair = t * shape.top_k; pair < (t + 1) * shape.top_k; ++pair) {
      int32_t& pair_row = args_.pair_rows.as<int32_t>()[pair];
      pair_row = -1;
      if (ids()[pair] < 0) continue;
      if (ids()[pair] >= placement_.num_experts) return false;
      const int32_t slot = ChooseSlot(placement_, ids()[pair], args_.rank, t);
      const int32_t to = slot / shape.slots_per_rank;
      if (last[to] != t) Begin(to * shape.capacity + counts.rows[to]++, t);
      last[to] = t;
      const int64_t row = to * shape.capacity + counts.rows[to] - 1;
      int32_t* header = args_.headers.as<int32_t>() + row * HeaderWords(m_);
      const int32_t n = header[RowHeader::kNumSlots]++;
      if (n >= m_) return false;
      SetHeaderSlot(header, m_, n, slot % shape.slots_per_rank, args_.weights.as<float>()[pair]);
      pair_row = static_cast<int32_t>(to * shape.capacity * m_ + counts.pairs[to]++);
      used = InsertRow(rows, used, static_cast<int32_t>(row));
    }
    std::fill(rows + used, rows + shape.rows_per_token(), -1);
    return true;
  }

  void Begin(int64_t row, int64_t token) const {
    args_.send_tokens.as<int32_t>()[row] = static_cast<int32_t>(token);
    int32_t* header = args_.headers.as<int32_t>() + row * HeaderWords(m_);
    header[RowHeader::kNumSlots] = 0;
    header[RowHeader::kToken] = static_cast<int32_t>(token);
  }

  const PlanDispatchArgs& args_;
  const PlacementView placement_;
  const int32_t m_;
};

// Blocks of tokens on all threads: each counts, begins where those before it end, and writes.
bool PlanBlocks(const Context& context, const PlanDispatchArgs& args, const Counts& totals) {
  const DispatchPlanner planner(args);
  const int64_t tokens = args.ids.dim(0);
  const int64_t ranks = args.shape.num_ranks;
  const int64_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  if (blocks <= 1) return planner.Write(0, tokens, totals);
  std::vector<int32_t> counts(blocks * 2 * ranks);
  const auto of_block = [&](int64_t block) {
    int32_t* rows = counts.data() + block * 2 * ranks;
    return Counts{.rows = rows, .pairs = rows + ranks};
  };
  std::atomic<bool> good{true};
  const double cost = static_cast<double>(args.ids.num_elements()) * 4;
  const auto for_blocks = [&](auto&& plan) {
    context.For(blocks, cost, [&](int64_t block) {
      const int64_t begin = block * kBlockTokens;
      if (!plan(begin, std::min(tokens, begin + kBlockTokens), of_block(block))) good = false;
    });
    return good.load();
  };
  const auto count = [&](int64_t begin, int64_t end, const Counts& block) {
    return planner.Count(begin, end, block);
  };
  const auto write = [&](int64_t begin, int64_t end, const Counts& block) {
    return planner.Write(begin, end, block);
  };
  if (!for_blocks(count)) return false;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t d = 0; d < ranks; ++d) {
      const Counts here = of_block(block);
      totals.rows[d] += std::exchange(here.rows[d], totals.rows[d]);
      totals.pairs[d] += std::exchange(here.pairs[d], totals.pairs[d]);
    }
  }
  return for_blocks(write);
}

const int32_t* HeaderOf(const DispatchShape& shape, const ConstTensorView& headers, int64_t row) {
  return headers.as<int32_t>() + row * HeaderWords(shape.row_slots());
}

// Headers come from peers: believe nothing. Counts the pairs of chunk `source` per slot; the first
// row that is impossible, or -1.
int64_t CountChunk(const SortRowsArgs& args, int64_t source, int32_t* slot_counts) {
  const DispatchShape& shape = args.shape;
  const int64_t first = source * shape.capacity;
  int32_t& rows = args.recv_counts.as<int32_t>()[source];
  if (args.padded) {
    rows = 0;
    while (rows < shape.capacity &&
           HeaderOf(shape, args.headers, first + rows)[RowHeader::kNumSlots] != 0) {
      ++rows;
    }
  }
  if (rows < 0 || rows > shape.capacity) return shape.capacity;
  int32_t pairs = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* header = HeaderOf(shape, args.headers, first + i);
    const int32_t n = header[RowHeader::kNumSlots];
    if (n < 1 || n > shape.row_slots()) return i;
    for (int32_t j = 0; j < n; ++j) {
      const auto slot = static_cast<uint32_t>(header[RowHeader::kSlots + j]);
      if (slot >= static_cast<uint32_t>(shape.slots_per_rank)) return i;
      ++slot_counts[slot];
    }
    args.result_rows.as<int32_t>()[first + i] =
        static_cast<int32_t>(first * shape.row_slots()) + pairs;
    pairs += n;
  }
  args.pair_counts.as<int32_t>()[source] = pairs;
  return -1;
}

// Gives the pairs of chunk `source` their places; next[slot] is that of its next pair.
void PlaceChunk(const SortRowsArgs& args, int64_t source, int32_t* next) {
  const DispatchShape& shape = args.shape;
  const int32_t m = shape.row_slots();
  const int64_t first = source * shape.capacity;
  for (int64_t row = first; row < first + args.recv_counts.as<int32_t>()[source]; ++row) {
    const int32_t* header = HeaderOf(shape, args.headers, row);
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      const int32_t place = next[header[RowHeader::kSlots + j]]++;
      args.sorted_rows.as<int32_t>()[row * m + j] = place;
      args.row_index.as<int32_t>()[place] = static_cast<int32_t>(row);
    }
  }
}

struct RowBytes {
  explicit RowBytes(const ConstTensorView& rows)
      : data(rows.as<char>()),
        stride(rows.stride0() * static_cast<int64_t>(SizeOf(rows.dtype()))),
        size(rows.dim(1) * static_cast<int64_t>(SizeOf(rows.dtype()))) {}
  const char* operator[](int64_t row) const { return data + row * stride; }

  const char* data;
  int64_t stride;
  int64_t size;
};

// visit(row) for the first counts[c] rows of every chunk, on all threads when `bytes` of each row
// make that worth while.
template <typename Visit>
void ForEachRow(const Context& context, const DispatchShape& shape, const ConstTensorView& counts,
                int64_t bytes, const Visit& visit) {
  const int32_t* used = counts.as<int32_t>();
  int64_t rows = 0;
  for (int32_t c = 0; c < shape.num_ranks; ++c) rows += used[c];
  context.For(shape.num_rows(), static_cast<double>(rows * bytes) / 8, [&](int64_t row) {
    if (row % shape.capacity < used[row / shape.capacity]) visit(row);
  });
}

}  // namespace

absl::Status PlanDispatch(const Context& context, const PlanDispatchArgs& args) {
  const DispatchShape& shape = args.shape;
  const Counts totals{.rows = args.send_counts.as<int32_t>(),
                      .pairs = args.pair_counts.as<int32_t>()};
  std::fill_n(totals.rows, shape.num_ranks, 0);
  std::fill_n(totals.pairs, shape.num_ranks, 0);
  if (!PlanBlocks(context, args, totals)) {
    return absl::InternalError(
        absl::StrCat("rank ", args.rank, ": the router chose an expert beyond ",
                     args.placement.num_experts(), " or one twice for a token"));
  }
  if (!args.clear_unused) return absl::OkStatus();
  const int32_t words = HeaderWords(shape.row_slots());
  for (int64_t r = 0; r < shape.num_ranks; ++r) {
    for (int64_t i = totals.rows[r]; i < shape.capacity; ++i) {
      args.headers.as<int32_t>()[(r * shape.capacity + i) * words + RowHeader::kNumSlots] = 0;
    }
  }
  return absl::OkStatus();
}

void PackRows(const Context& context, const PackRowsArgs& args) {
  const RowBytes x(args.x);
  char* chunks = args.chunks.as<char>();
  const int32_t* tokens = args.send_tokens.as<int32_t>();
  ForEachRow(context, args.shape, args.send_counts, x.size,
             [&](int64_t row) { std::memcpy(chunks + row * x.size, x[tokens[row]], x.size); });
}

absl::Status SortRows(const Context& context, const SortRowsArgs& args) {
  const int64_t ranks = args.shape.num_ranks;
  const int64_t slots = args.shape.slots_per_rank;
  // Per source and slot: how many pairs, then the place of the next one.
  std::vector<int32_t> counts(ranks * slots);
  std::vector<int64_t> impossible(ranks, -1);
  const double cost = static_cast<double>(args.shape.num_results()) * 2;
  context.For(ranks, cost, [&](int64_t source) {
    impossible[source] = CountChunk(args, source, counts.data() + source * slots);
  });
  for (int64_t source = 0; source < ranks; ++source) {
    if (impossible[source] < 0) continue;
    return absl::InternalError(absl::StrCat("row ", impossible[source], " from rank ", source,
                                            " has an impossible list of experts"));
  }
  int32_t place = 0;
  for (int64_t slot = 0; slot < slots; ++slot) {
    args.offsets.as<int32_t>()[slot] = place;
    for (int64_t source = 0; source < ranks; ++source) {
      place += std::exchange(counts[source * slots + slot], place);
    }
  }
  args.offsets.as<int32_t>()[slots] = place;
  context.For(ranks, cost,
              [&](int64_t source) { PlaceChunk(args, source, counts.data() + source * slots); });
  return absl::OkStatus();
}

void PackResults(const Context& context, const PackResultsArgs& args) {
  const int32_t m = args.shape.row_slots();
  const RowBytes y(args.y);
  char* chunks = args.chunks.as<char>();
  ForEachRow(context, args.shape, args.recv_counts, y.size * m, [&](int64_t row) {
    const int32_t n = HeaderOf(args.shape, args.headers, row)[RowHeader::kNumSlots];
    const int64_t first = args.result_rows.as<int32_t>()[row];
    for (int32_t j = 0; j < n; ++j) {
      std::memcpy(chunks + (first + j) * y.size, y[args.sorted_rows.as<int32_t>()[row * m + j]],
                  y.size);
    }
  });
}

absl::Status CheckReturn(const Context& /*context*/, const CheckReturnArgs& args) {
  const int32_t* sent = args.sent.as<int32_t>();
  const int32_t* returned = args.returned.as<int32_t>();
  for (int64_t r = 0; r < args.sent.dim(0); ++r) {
    if (sent[r] == returned[r]) continue;
    return absl::InternalError(absl::StrCat("rank ", r, " returned ", returned[r],
                                            " expert results instead of ", sent[r]));
  }
  return absl::OkStatus();
}

}  // namespace tessera::cpu
