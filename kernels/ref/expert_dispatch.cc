#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/ref/element.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {
namespace {

const char* Row(const ConstTensorView& rows, int64_t row) {
  return rows.as<char>() + row * rows.stride0() * static_cast<int64_t>(SizeOf(rows.dtype()));
}

void CopyRow(const ConstTensorView& from, int64_t row, const TensorView& to, int64_t to_row) {
  const auto element = static_cast<int64_t>(SizeOf(to.dtype()));
  std::memcpy(to.as<char>() + to_row * to.stride0() * element, Row(from, row), to.dim(1) * element);
}

const int32_t* HeaderOf(const DispatchShape& shape, const ConstTensorView& headers, int64_t row) {
  return headers.as<int32_t>() + row * HeaderWords(shape.row_slots());
}

// visit(row) for every received row, sources ascending.
template <typename Visit>
void ForEachRow(const DispatchShape& shape, const ConstTensorView& recv_counts,
                const Visit& visit) {
  for (int64_t s = 0; s < shape.num_ranks; ++s) {
    for (int64_t i = 0; i < recv_counts.as<int32_t>()[s]; ++i) visit(s * shape.capacity + i);
  }
}

// The chunk for rank `to`. INTERNAL when a token has too many choices there.
absl::Status PlanChunk(const PlanDispatchArgs& args, int32_t to) {
  const DispatchShape& shape = args.shape;
  const PlacementView placement = args.placement.view();
  const int32_t m = shape.row_slots();
  int32_t rows = 0;
  int32_t pairs = 0;
  for (int64_t t = 0; t < args.ids.dim(0); ++t) {
    const int64_t row = to * shape.capacity + rows;
    int32_t* header = args.headers.as<int32_t>() + row * HeaderWords(m);
    int32_t slots = 0;
    for (int64_t pair = t * shape.top_k; pair < (t + 1) * shape.top_k; ++pair) {
      const int32_t id = args.ids.as<int32_t>()[pair];
      if (id < 0) continue;
      const int32_t slot = ChooseSlot(placement, id, args.rank, t);
      if (slot / shape.slots_per_rank != to) continue;
      if (slots == m) {
        return absl::InternalError(
            absl::StrCat("rank ", args.rank, ": the router chose an expert twice for a token"));
      }
      SetHeaderSlot(header, m, slots++, slot % shape.slots_per_rank,
                    args.weights.as<float>()[pair]);
      args.pair_rows.as<int32_t>()[pair] = static_cast<int32_t>(to * shape.capacity * m + pairs++);
    }
    if (slots == 0) continue;
    header[RowHeader::kNumSlots] = slots;
    header[RowHeader::kToken] = static_cast<int32_t>(t);
    args.send_tokens.as<int32_t>()[row] = static_cast<int32_t>(t);
    int32_t* token_rows = args.token_rows.as<int32_t>() + t * shape.rows_per_token();
    *std::find(token_rows, token_rows + shape.rows_per_token(), -1) = static_cast<int32_t>(row);
    ++rows;
  }
  for (int64_t i = rows; args.clear_unused && i < shape.capacity; ++i) {
    const int64_t row = to * shape.capacity + i;
    args.headers.as<int32_t>()[row * HeaderWords(m) + RowHeader::kNumSlots] = 0;
  }
  args.send_counts.as<int32_t>()[to] = rows;
  args.pair_counts.as<int32_t>()[to] = pairs;
  return absl::OkStatus();
}

// Counts the rows of chunk s, when whole chunks came, and checks what it says.
absl::Status CheckChunk(const SortRowsArgs& args, int64_t s) {
  const DispatchShape& shape = args.shape;
  int32_t& count = args.recv_counts.as<int32_t>()[s];
  const auto num_slots = [&](int64_t i) {
    return HeaderOf(shape, args.headers, s * shape.capacity + i)[RowHeader::kNumSlots];
  };
  if (args.padded) {
    for (count = 0; count < shape.capacity && num_slots(count) != 0;) ++count;
  }
  if (count < 0 || count > shape.capacity) {
    return absl::InternalError(absl::StrCat("rank ", s, " sent ", count, " rows"));
  }
  int32_t pairs = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t* slots =
        HeaderOf(shape, args.headers, s * shape.capacity + i) + RowHeader::kSlots;
    const bool possible = num_slots(i) >= 1 && num_slots(i) <= shape.row_slots() &&
                          std::all_of(slots, slots + num_slots(i), [&](int32_t slot) {
                            return slot >= 0 && slot < shape.slots_per_rank;
                          });
    if (!possible) {
      return absl::InternalError(
          absl::StrCat("row ", i, " from rank ", s, " has an impossible list of experts"));
    }
    args.result_rows.as<int32_t>()[s * shape.capacity + i] =
        static_cast<int32_t>(s * shape.capacity * shape.row_slots() + pairs);
    pairs += num_slots(i);
  }
  args.pair_counts.as<int32_t>()[s] = pairs;
  return absl::OkStatus();
}

}  // namespace

absl::Status PlanDispatch(const PlanDispatchArgs& args) {
  for (int64_t pair = 0; pair < args.ids.num_elements(); ++pair) {
    const int32_t id = args.ids.as<int32_t>()[pair];
    if (id >= args.placement.num_experts()) {
      return absl::InternalError(absl::StrCat("rank ", args.rank, ": the router chose expert ", id,
                                              " of ", args.placement.num_experts()));
    }
  }
  std::fill_n(args.token_rows.as<int32_t>(), args.token_rows.num_elements(), -1);
  std::fill_n(args.pair_rows.as<int32_t>(), args.pair_rows.num_elements(), -1);
  for (int32_t to = 0; to < args.shape.num_ranks; ++to) {
    if (absl::Status status = PlanChunk(args, to); !status.ok()) return status;
  }
  return absl::OkStatus();
}

void PackRows(const PackRowsArgs& args) {
  ForEachRow(args.shape, args.send_counts, [&](int64_t row) {
    CopyRow(args.x, args.send_tokens.as<int32_t>()[row], args.chunks, row);
  });
}

absl::Status SortRows(const SortRowsArgs& args) {
  for (int64_t s = 0; s < args.shape.num_ranks; ++s) {
    if (absl::Status status = CheckChunk(args, s); !status.ok()) return status;
  }
  int32_t place = 0;
  for (int32_t slot = 0; slot < args.shape.slots_per_rank; ++slot) {
    args.offsets.as<int32_t>()[slot] = place;
    ForEachRow(args.shape, args.recv_counts, [&](int64_t row) {
      const int32_t* header = HeaderOf(args.shape, args.headers, row);
      for (int32_t i = 0; i < header[RowHeader::kNumSlots]; ++i) {
        if (header[RowHeader::kSlots + i] != slot) continue;
        args.sorted_rows.as<int32_t>()[row * args.shape.row_slots() + i] = place;
        args.row_index.as<int32_t>()[place++] = static_cast<int32_t>(row);
      }
    });
  }
  args.offsets.as<int32_t>()[args.shape.slots_per_rank] = place;
  return absl::OkStatus();
}

void SumResults(const SumResultsArgs& args) {
  const int32_t m = args.shape.row_slots();
  ForEachRow(args.shape, args.recv_counts, [&](int64_t row) {
    const int32_t* header = HeaderOf(args.shape, args.headers, row);
    for (int64_t i = 0; i < args.y.dim(1); ++i) {
      float sum = 0;
      for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
        const int32_t sorted = args.sorted_rows.as<int32_t>()[row * m + j];
        sum += HeaderWeight(header, m, j) * Load(args.y, sorted * args.y.stride0() + i);
      }
      Store(args.chunks, row * args.chunks.stride0() + i, sum);
    }
  });
}

void PackResults(const PackResultsArgs& args) {
  const int32_t m = args.shape.row_slots();
  ForEachRow(args.shape, args.recv_counts, [&](int64_t row) {
    const int32_t* header = HeaderOf(args.shape, args.headers, row);
    for (int32_t j = 0; j < header[RowHeader::kNumSlots]; ++j) {
      CopyRow(args.y, args.sorted_rows.as<int32_t>()[row * m + j], args.chunks,
              args.result_rows.as<int32_t>()[row] + j);
    }
  });
}

absl::Status CheckReturn(const CheckReturnArgs& args) {
  for (int64_t r = 0; r < args.sent.dim(0); ++r) {
    const int32_t sent = args.sent.as<int32_t>()[r];
    const int32_t returned = args.returned.as<int32_t>()[r];
    if (sent == returned) continue;
    return absl::InternalError(
        absl::StrCat("rank ", r, " returned ", returned, " expert results instead of ", sent));
  }
  return absl::OkStatus();
}

void AddRanks(const AddRanksArgs& args) {
  for (int64_t t = 0; t < args.out.dim(0); ++t) {
    const int32_t* rows = args.token_rows.as<int32_t>() + t * args.token_rows.dim(1);
    for (int64_t i = 0; i < args.out.dim(1); ++i) {
      float sum = 0;
      for (int64_t j = 0; j < args.token_rows.dim(1) && rows[j] >= 0; ++j) {
        sum += Load(args.chunks, rows[j] * args.chunks.stride0() + i);
      }
      Store(args.out, t * args.out.stride0() + i, sum);
    }
  }
}

}  // namespace tessera::ref
