#include "kernels/op_checks.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/bit_mask.h"

namespace tessera {
namespace {

bool IsVector(const ConstTensorView& view, DType dtype, int64_t size) {
  return view.rank() == 1 && view.dtype() == dtype && view.dim(0) == size && view.contiguous();
}

bool IsMatrix(const ConstTensorView& view, int64_t rows, int64_t cols) {
  return view.rank() == 2 && view.dim(0) == rows && view.dim(1) == cols && view.stride0() >= cols;
}

bool IsMatrix(const ConstTensorView& view, DType dtype, int64_t rows, int64_t cols) {
  return IsMatrix(view, rows, cols) && view.dtype() == dtype;
}

// Rows of a tensor that holds activations.
bool IsActivations(const ConstTensorView& view) {
  return view.rank() == 2 && (view.dtype() == DType::kF32 || view.dtype() == DType::kBF16);
}

void CheckKv(const KvLayer& kv, int64_t num_kv_heads) {
  TESSERA_CHECK(kv.k.rank() == 4 && kv.v.rank() == 4 && kv.k.dtype() == kv.v.dtype());
  TESSERA_CHECK(kv.k.dtype() == DType::kF32 || kv.k.dtype() == DType::kBF16);
  for (int i = 0; i < 4; ++i) TESSERA_CHECK(kv.k.dim(i) == kv.v.dim(i));
  TESSERA_CHECK(kv.k.dim(1) == num_kv_heads && kv.k.dim(2) > 0 && kv.k.dim(3) > 0);
}

bool IsIndex(const ConstTensorView& view, int64_t rows, int64_t cols) {
  return IsMatrix(view, DType::kI32, rows, cols) && view.contiguous();
}

// Rows that experts read and give.
bool IsRows(const ConstTensorView& view, int64_t rows, int64_t cols) {
  return IsMatrix(view, rows, cols) &&
         (view.dtype() == DType::kF32 || view.dtype() == DType::kBF16);
}

void CheckPlacement(const PlacementTensors& placement) {
  TESSERA_CHECK(placement.num_ranks > 0 && placement.slots_per_rank > 0);
  TESSERA_CHECK(placement.num_experts() > 0);
  TESSERA_CHECK(IsVector(placement.replica_offsets, DType::kI32, placement.num_experts() + 1));
  TESSERA_CHECK(IsVector(placement.replica_slots, DType::kI32,
                         int64_t{placement.num_ranks} * placement.slots_per_rank));
}

void CheckShape(const DispatchShape& shape) {
  TESSERA_CHECK(shape.num_ranks > 0 && shape.slots_per_rank > 0 && shape.top_k > 0);
  TESSERA_CHECK(shape.capacity > 0);
}

bool IsHeaders(const ConstTensorView& view, const DispatchShape& shape) {
  return IsIndex(view, shape.num_rows(), HeaderWords(shape.row_slots()));
}

// The rows of y that received pairs are sorted to.
bool IsResults(const ConstTensorView& y, const DispatchShape& shape, int64_t cols) {
  return y.rank() == 2 && y.dim(0) >= shape.num_results() && IsRows(y, y.dim(0), cols);
}

}  // namespace

void Check(const EmbedArgs& args) {
  TESSERA_CHECK(args.table != nullptr && args.ids.rank() == 1);
  TESSERA_CHECK(IsVector(args.ids, DType::kI32, args.ids.dim(0)));
  if (!args.source.empty()) {
    TESSERA_CHECK(IsVector(args.source, DType::kI32, args.ids.dim(0)));
    TESSERA_CHECK(IsVector(args.drawn, DType::kI32, args.drawn.dim(0)));
  }
  TESSERA_CHECK(IsActivations(args.out));
  TESSERA_CHECK(IsMatrix(args.out, args.ids.dim(0), args.table->cols()));
}

void Check(const RmsNormArgs& args) {
  TESSERA_CHECK(IsActivations(args.x));
  TESSERA_CHECK(IsVector(args.weight, DType::kF32, args.x.dim(1)));
  TESSERA_CHECK(IsMatrix(args.out, args.x.dtype(), args.x.dim(0), args.x.dim(1)));
  if (args.add.empty()) return;
  TESSERA_CHECK(IsMatrix(args.add, args.x.dtype(), args.x.dim(0), args.x.dim(1)));
}

void Check(const GemmArgs& args) {
  TESSERA_CHECK(args.weight != nullptr && IsActivations(args.x));
  TESSERA_CHECK(args.x.dim(1) == args.weight->cols());
  TESSERA_CHECK(IsMatrix(args.out, args.x.dim(0), args.weight->rows()));
  TESSERA_CHECK(args.out.dtype() == args.x.dtype() || args.out.dtype() == DType::kF32);
  TESSERA_CHECK(args.bias.empty() || IsVector(args.bias, DType::kF32, args.weight->rows()));
}

void Check(const GroupedGemmArgs& args) {
  TESSERA_CHECK(args.experts != nullptr && IsActivations(args.x) && args.out.rank() == 2);
  const ExpertTableShape& experts = args.experts->shape();
  TESSERA_CHECK(experts.cols == args.x.dim(1) && experts.rows == args.out.dim(1));
  TESSERA_CHECK(IsVector(args.offsets, DType::kI32, experts.num_slots + 1));
  TESSERA_CHECK(args.out.dtype() == args.x.dtype());
  TESSERA_CHECK(args.row_index.empty() || IsVector(args.row_index, DType::kI32, args.out.dim(0)));
}

void Check(const QkNormRopeStoreKvArgs& args) {
  CheckKv(args.kv, args.num_kv_heads);
  const int64_t head_dim = args.kv.k.dim(3);
  TESSERA_CHECK(head_dim % 2 == 0 && IsActivations(args.qkv) && args.num_q_heads > 0);
  const int64_t tokens = args.qkv.dim(0);
  TESSERA_CHECK(args.qkv.dim(1) == (args.num_q_heads + 2 * args.num_kv_heads) * head_dim);
  TESSERA_CHECK(IsVector(args.q_norm, DType::kF32, head_dim));
  TESSERA_CHECK(IsVector(args.k_norm, DType::kF32, head_dim));
  TESSERA_CHECK(args.cos_sin.rank() == 2);
  TESSERA_CHECK(IsMatrix(args.cos_sin, DType::kF32, args.cos_sin.dim(0), head_dim));
  TESSERA_CHECK(IsVector(args.positions, DType::kI32, tokens));
  TESSERA_CHECK(IsVector(args.slot_mapping, DType::kI32, tokens));
}

void Check(const PagedAttentionArgs& args) {
  CheckKv(args.kv, args.num_kv_heads);
  TESSERA_CHECK(args.num_kv_heads > 0 && args.num_q_heads % args.num_kv_heads == 0);
  TESSERA_CHECK(IsActivations(args.q) && args.window >= 0);
  TESSERA_CHECK(args.q.dim(1) == args.num_q_heads * args.kv.k.dim(3));
  TESSERA_CHECK(IsMatrix(args.out, args.q.dtype(), args.q.dim(0), args.q.dim(1)));
  TESSERA_CHECK(args.context_lens.rank() == 1 && args.block_tables.rank() == 2);
  const int64_t sequences = args.context_lens.dim(0);
  TESSERA_CHECK(IsVector(args.context_lens, DType::kI32, sequences));
  TESSERA_CHECK(IsVector(args.cu_seqlens, DType::kI32, sequences + 1));
  TESSERA_CHECK(IsMatrix(args.block_tables, DType::kI32, sequences, args.block_tables.dim(1)));
}

void Check(const SiluAndMulArgs& args) {
  TESSERA_CHECK(IsActivations(args.x) && args.x.dim(1) % 2 == 0);
  TESSERA_CHECK(IsMatrix(args.out, args.x.dtype(), args.x.dim(0), args.x.dim(1) / 2));
  TESSERA_CHECK(args.num_rows.empty() || IsVector(args.num_rows, DType::kI32, 1));
}

void Check(const RouteTopKArgs& args) {
  TESSERA_CHECK(args.logits.rank() == 2 && args.ids.rank() == 2);
  TESSERA_CHECK(args.logits.dtype() == DType::kF32 && args.logits.dim(0) <= args.ids.dim(0));
  const int64_t top_k = args.ids.dim(1);
  TESSERA_CHECK(top_k > 0 && top_k <= args.logits.dim(1) && args.first_row >= 0);
  TESSERA_CHECK(args.num_rows.empty() || IsVector(args.num_rows, DType::kI32, 1));
  TESSERA_CHECK(IsMatrix(args.ids, DType::kI32, args.ids.dim(0), top_k));
  TESSERA_CHECK(IsMatrix(args.weights, DType::kF32, args.ids.dim(0), top_k));
}

void Check(const MoePermuteArgs& args) {
  TESSERA_CHECK(args.ids.rank() == 2 && args.ids.dtype() == DType::kI32 && args.num_experts > 0);
  TESSERA_CHECK(IsVector(args.offsets, DType::kI32, args.num_experts + 1));
  const int64_t most = std::min<int64_t>(args.ids.dim(1), args.num_experts);
  TESSERA_CHECK(IsVector(args.row_token, DType::kI32, args.ids.dim(0) * most));
  TESSERA_CHECK(IsMatrix(args.positions, DType::kI32, args.ids.dim(0), args.ids.dim(1)));
}

void Check(const MoeFinalizeArgs& args) {
  TESSERA_CHECK(IsActivations(args.y) && args.positions.rank() == 2);
  const int64_t tokens = args.positions.dim(0);
  TESSERA_CHECK(IsMatrix(args.positions, DType::kI32, tokens, args.positions.dim(1)));
  TESSERA_CHECK(IsMatrix(args.weights, DType::kF32, tokens, args.positions.dim(1)));
  TESSERA_CHECK(IsMatrix(args.out, args.y.dtype(), tokens, args.y.dim(1)));
}

void Check(const CountChoicesArgs& args) {
  TESSERA_CHECK(args.ids.rank() == 2 && args.counts.rank() == 1);
  TESSERA_CHECK(IsIndex(args.ids, args.ids.dim(0), args.ids.dim(1)));
  TESSERA_CHECK(IsVector(args.counts, DType::kI64, args.counts.dim(0)));
}

void Check(const CountRowsArgs& args) {
  TESSERA_CHECK(IsVector(args.num_rows, DType::kI32, 1) && IsVector(args.total, DType::kI64, 1));
}

void Check(const SumCountsArgs& args) {
  TESSERA_CHECK(args.counts.rank() == 1 && IsVector(args.sum, DType::kI64, 1));
  TESSERA_CHECK(IsVector(args.counts, DType::kI64, args.counts.dim(0)));
}

void Check(const LocalSlotsArgs& args) {
  CheckPlacement(args.placement);
  TESSERA_CHECK(args.rank >= 0 && args.rank < args.placement.num_ranks && args.ids.rank() == 2);
  TESSERA_CHECK(IsIndex(args.ids, args.ids.dim(0), args.ids.dim(1)));
  TESSERA_CHECK(IsIndex(args.slots, args.ids.dim(0), args.ids.dim(1)));
}

void Check(const PlanDispatchArgs& args) {
  const DispatchShape& shape = args.shape;
  CheckShape(shape);
  CheckPlacement(args.placement);
  TESSERA_CHECK(args.placement.num_ranks == shape.num_ranks);
  TESSERA_CHECK(args.placement.slots_per_rank == shape.slots_per_rank);
  TESSERA_CHECK(args.rank >= 0 && args.rank < shape.num_ranks && args.ids.rank() == 2);
  const int64_t tokens = args.ids.dim(0);
  TESSERA_CHECK(tokens <= shape.capacity && IsIndex(args.ids, tokens, shape.top_k));
  TESSERA_CHECK(IsMatrix(args.weights, DType::kF32, tokens, shape.top_k));
  TESSERA_CHECK(args.weights.contiguous());
  TESSERA_CHECK(IsVector(args.send_counts, DType::kI32, shape.num_ranks));
  TESSERA_CHECK(IsVector(args.pair_counts, DType::kI32, shape.num_ranks));
  TESSERA_CHECK(IsVector(args.send_tokens, DType::kI32, shape.num_rows()));
  TESSERA_CHECK(IsHeaders(args.headers, shape));
  TESSERA_CHECK(IsIndex(args.token_rows, tokens, shape.rows_per_token()));
  TESSERA_CHECK(IsIndex(args.pair_rows, tokens, shape.top_k));
}

void Check(const PackRowsArgs& args) {
  CheckShape(args.shape);
  TESSERA_CHECK(args.x.rank() == 2 && IsRows(args.x, args.x.dim(0), args.x.dim(1)));
  TESSERA_CHECK(IsVector(args.send_counts, DType::kI32, args.shape.num_ranks));
  TESSERA_CHECK(IsVector(args.send_tokens, DType::kI32, args.shape.num_rows()));
  TESSERA_CHECK(IsMatrix(args.chunks, args.x.dtype(), args.shape.num_rows(), args.x.dim(1)));
  TESSERA_CHECK(args.chunks.contiguous());
}

void Check(const SortRowsArgs& args) {
  const DispatchShape& shape = args.shape;
  CheckShape(shape);
  TESSERA_CHECK(IsHeaders(args.headers, shape));
  TESSERA_CHECK(IsVector(args.recv_counts, DType::kI32, shape.num_ranks));
  TESSERA_CHECK(IsVector(args.pair_counts, DType::kI32, shape.num_ranks));
  TESSERA_CHECK(IsVector(args.offsets, DType::kI32, shape.slots_per_rank + 1));
  TESSERA_CHECK(IsVector(args.row_index, DType::kI32, shape.num_results()));
  TESSERA_CHECK(IsIndex(args.sorted_rows, shape.num_rows(), shape.row_slots()));
  TESSERA_CHECK(IsVector(args.result_rows, DType::kI32, shape.num_rows()));
}

void Check(const SumResultsArgs& args) {
  const DispatchShape& shape = args.shape;
  CheckShape(shape);
  TESSERA_CHECK(IsHeaders(args.headers, shape) && args.chunks.rank() == 2);
  TESSERA_CHECK(IsVector(args.recv_counts, DType::kI32, shape.num_ranks));
  TESSERA_CHECK(IsIndex(args.sorted_rows, shape.num_rows(), shape.row_slots()));
  TESSERA_CHECK(IsResults(args.y, shape, args.chunks.dim(1)));
  TESSERA_CHECK(IsMatrix(args.chunks, args.y.dtype(), shape.num_rows(), args.y.dim(1)));
}

void Check(const PackResultsArgs& args) {
  const DispatchShape& shape = args.shape;
  CheckShape(shape);
  TESSERA_CHECK(IsHeaders(args.headers, shape) && args.chunks.rank() == 2);
  TESSERA_CHECK(IsVector(args.recv_counts, DType::kI32, shape.num_ranks));
  TESSERA_CHECK(IsIndex(args.sorted_rows, shape.num_rows(), shape.row_slots()));
  TESSERA_CHECK(IsVector(args.result_rows, DType::kI32, shape.num_rows()));
  TESSERA_CHECK(IsResults(args.y, shape, args.chunks.dim(1)));
  TESSERA_CHECK(IsMatrix(args.chunks, args.y.dtype(), shape.num_results(), args.y.dim(1)));
  TESSERA_CHECK(args.chunks.contiguous());
}

void Check(const CheckReturnArgs& args) {
  TESSERA_CHECK(args.sent.rank() == 1 && IsVector(args.sent, DType::kI32, args.sent.dim(0)));
  TESSERA_CHECK(IsVector(args.returned, DType::kI32, args.sent.dim(0)));
}

void Check(const AddRanksArgs& args) {
  TESSERA_CHECK(args.chunks.rank() == 2 && args.token_rows.rank() == 2);
  TESSERA_CHECK(IsRows(args.chunks, args.chunks.dim(0), args.chunks.dim(1)));
  TESSERA_CHECK(IsIndex(args.token_rows, args.token_rows.dim(0), args.token_rows.dim(1)));
  TESSERA_CHECK(
      IsMatrix(args.out, args.chunks.dtype(), args.token_rows.dim(0), args.chunks.dim(1)));
}

void Check(const GatherRowsArgs& args) {
  TESSERA_CHECK(args.x.rank() == 2 && args.rows.rank() == 1);
  TESSERA_CHECK(IsVector(args.rows, DType::kI32, args.rows.dim(0)));
  TESSERA_CHECK(IsMatrix(args.out, args.x.dtype(), args.rows.dim(0), args.x.dim(1)));
}

void Check(const CopyBlocksArgs& args) {
  TESSERA_CHECK(args.cache.rank() == 3 && args.cache.contiguous() && args.from.rank() == 1);
  TESSERA_CHECK(IsVector(args.from, DType::kI32, args.from.dim(0)));
  TESSERA_CHECK(IsVector(args.to, DType::kI32, args.from.dim(0)));
}

void Check(const ConcatColumnsArgs& args) {
  TESSERA_CHECK(args.shards.rank() == 3 && args.shards.dtype() == DType::kF32);
  TESSERA_CHECK(args.shards.contiguous() && args.out.rank() == 2);
  TESSERA_CHECK(IsMatrix(args.out, DType::kF32, args.shards.dim(1), args.out.dim(1)));
  TESSERA_CHECK(args.out.dim(1) <= args.shards.dim(0) * args.shards.dim(2));
}

void Check(const SampleArgs& args) {
  TESSERA_CHECK(args.logits.rank() == 2 && args.logits.dtype() == DType::kF32);
  const int64_t rows = args.logits.dim(0);
  for (const ConstTensorView& view :
       {ConstTensorView(args.forced), ConstTensorView(args.top_k), ConstTensorView(args.position),
        ConstTensorView(args.num_logprobs), ConstTensorView(args.mask_row),
        ConstTensorView(args.penalty_slot), ConstTensorView(args.penalty_reset),
        ConstTensorView(args.token), ConstTensorView(args.rank)}) {
    TESSERA_CHECK(IsVector(view, DType::kI32, rows));
  }
  for (const ConstTensorView& view :
       {args.temperature, args.top_p, args.min_p, args.repetition_penalty, args.presence_penalty,
        args.frequency_penalty, args.mask_penalty, ConstTensorView(args.logprob)}) {
    TESSERA_CHECK(IsVector(view, DType::kF32, rows));
  }
  TESSERA_CHECK(IsVector(args.seed, DType::kI64, rows));
  TESSERA_CHECK(IsVector(args.pen_offsets, DType::kI32, rows + 1));
  TESSERA_CHECK(IsVector(args.adj_offsets, DType::kI32, rows + 1));
  if (!args.penalty_counts.empty()) {
    const int64_t slots = args.penalty_counts.dim(0);
    const int64_t words = MaskWords(args.logits.dim(1));
    TESSERA_CHECK(IsMatrix(args.penalty_counts, DType::kI32, slots, args.logits.dim(1)));
    TESSERA_CHECK(IsMatrix(args.penalty_listed, DType::kI32, slots, words));
  }
  if (!args.masks.empty()) {
    const int64_t words = MaskWords(args.logits.dim(1));
    TESSERA_CHECK(IsMatrix(args.masks, DType::kI32, args.masks.dim(0), words));
  }
  if (args.top_tokens.empty()) return;
  const int64_t alternatives = args.top_tokens.dim(1);
  TESSERA_CHECK(IsMatrix(args.top_tokens, DType::kI32, rows, alternatives));
  TESSERA_CHECK(IsMatrix(args.top_logprobs, DType::kF32, rows, alternatives));
}

absl::Status Check(const WeightSource& source) {
  if (source.dtype != DType::kF32 && source.dtype != DType::kBF16) {
    return absl::InvalidArgumentError(absl::StrCat("weights cannot be kept as ",
                                                   std::string(DTypeName(source.dtype)),
                                                   "; use float32 or bfloat16"));
  }
  if (source.parts.empty() || source.pad_rows < 0) {
    return absl::InvalidArgumentError("a weight needs at least one part and no negative padding");
  }
  for (const HostMatrix& part : source.parts) {
    const bool known =
        part.dtype == DType::kF32 || part.dtype == DType::kBF16 || part.dtype == DType::kF16;
    if (!known) {
      return absl::InvalidArgumentError("a weight must be stored as float32, bfloat16 or float16");
    }
    if (part.rows < 0 || part.cols <= 0 || part.cols != source.parts[0].cols ||
        part.row_stride < part.cols || (part.data == nullptr && part.rows > 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "weight parts do not stack: a part of ", part.rows, " x ", part.cols, " (row stride ",
          part.row_stride, ") under one with ", source.parts[0].cols, " columns"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
