// Applies a visitor to every field of an argument struct. The structured bindings name all fields,
// so a field that is added to an argument struct and forgotten here does not compile.
#ifndef TESSERA_KERNELS_QUEUED_VISIT_TENSORS_H_
#define TESSERA_KERNELS_QUEUED_VISIT_TENSORS_H_

#include "kernels/ops.h"

namespace tessera {

template <typename Visitor, typename... Fields>
void VisitEach(const Visitor& visit, Fields&... fields) {
  (visit(fields), ...);
}

template <typename Visitor>
void VisitTensors(EmbedArgs& args, const Visitor& visit) {
  auto& [ids, source, drawn, table, vocab_begin, out] = args;
  VisitEach(visit, ids, source, drawn, table, vocab_begin, out);
}

template <typename Visitor>
void VisitTensors(RmsNormArgs& args, const Visitor& visit) {
  auto& [x, add, weight, eps, out] = args;
  VisitEach(visit, x, add, weight, eps, out);
}

template <typename Visitor>
void VisitTensors(GemmArgs& args, const Visitor& visit) {
  auto& [x, weight, bias, out] = args;
  VisitEach(visit, x, weight, bias, out);
}

template <typename Visitor>
void VisitTensors(GroupedGemmArgs& args, const Visitor& visit) {
  auto& [x, row_index, offsets, experts, out] = args;
  VisitEach(visit, x, row_index, offsets, experts, out);
}

template <typename Visitor>
void VisitTensors(QkNormRopeStoreKvArgs& args, const Visitor& visit) {
  auto& [qkv, q_norm, k_norm, cos_sin, positions, slot_mapping, kv, q_heads, kv_heads, eps] = args;
  VisitEach(visit, qkv, q_norm, k_norm, cos_sin, positions, slot_mapping, kv, q_heads, kv_heads,
            eps);
}

template <typename Visitor>
void VisitTensors(PagedAttentionArgs& args, const Visitor& visit) {
  auto& [q, kv, block_tables, cu_seqlens, context_lens, q_heads, kv_heads, window, scale, out] =
      args;
  VisitEach(visit, q, kv, block_tables, cu_seqlens, context_lens, q_heads, kv_heads, window, scale,
            out);
}

template <typename Visitor>
void VisitTensors(SiluAndMulArgs& args, const Visitor& visit) {
  auto& [x, num_rows, out] = args;
  VisitEach(visit, x, num_rows, out);
}

template <typename Visitor>
void VisitTensors(RouteTopKArgs& args, const Visitor& visit) {
  auto& [logits, normalize, first_row, num_rows, ids, weights] = args;
  VisitEach(visit, logits, normalize, first_row, num_rows, ids, weights);
}

template <typename Visitor>
void VisitTensors(MoePermuteArgs& args, const Visitor& visit) {
  auto& [ids, expert_begin, num_experts, offsets, row_token, positions] = args;
  VisitEach(visit, ids, expert_begin, num_experts, offsets, row_token, positions);
}

template <typename Visitor>
void VisitTensors(MoeFinalizeArgs& args, const Visitor& visit) {
  auto& [y, positions, weights, out] = args;
  VisitEach(visit, y, positions, weights, out);
}

template <typename Visitor>
void VisitTensors(GatherRowsArgs& args, const Visitor& visit) {
  auto& [x, rows, out] = args;
  VisitEach(visit, x, rows, out);
}

template <typename Visitor>
void VisitTensors(CopyBlocksArgs& args, const Visitor& visit) {
  auto& [cache, from, to] = args;
  VisitEach(visit, cache, from, to);
}

template <typename Visitor>
void VisitTensors(ConcatColumnsArgs& args, const Visitor& visit) {
  auto& [shards, out] = args;
  VisitEach(visit, shards, out);
}

template <typename Visitor>
void VisitTensors(SampleArgs& args, const Visitor& visit) {
  auto& [logits, forced, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed,
         position, penalty_slot, penalty_reset, penalty_listed, penalty_counts, pen_offsets,
         pen_tokens, pen_counts, adj_offsets, adj_tokens, adj_values, masks, mask_row, mask_penalty,
         num_logprobs, token, logprob, rank, top_tokens, top_logprobs] = args;
  VisitEach(visit, logits, forced, temperature, top_k, top_p, min_p, repetition, presence,
            frequency, seed, position, penalty_slot, penalty_reset, penalty_listed, penalty_counts,
            pen_offsets, pen_tokens, pen_counts, adj_offsets, adj_tokens, adj_values, masks,
            mask_row, mask_penalty, num_logprobs, token, logprob, rank, top_tokens, top_logprobs);
}

template <typename Visitor>
void VisitTensors(CountChoicesArgs& args, const Visitor& visit) {
  auto& [ids, counts] = args;
  VisitEach(visit, ids, counts);
}

template <typename Visitor>
void VisitTensors(CountRowsArgs& args, const Visitor& visit) {
  auto& [num_rows, total] = args;
  VisitEach(visit, num_rows, total);
}

template <typename Visitor>
void VisitTensors(SumCountsArgs& args, const Visitor& visit) {
  auto& [counts, sum] = args;
  VisitEach(visit, counts, sum);
}

template <typename Visitor>
void VisitTensors(LocalSlotsArgs& args, const Visitor& visit) {
  auto& [placement, rank, ids, slots] = args;
  VisitEach(visit, placement, rank, ids, slots);
}

template <typename Visitor>
void VisitTensors(PlanDispatchArgs& args, const Visitor& visit) {
  auto& [shape, placement, rank, clear_unused, ids, weights, send_counts, pair_counts, send_tokens,
         headers, token_rows, pair_rows] = args;
  VisitEach(visit, shape, placement, rank, clear_unused, ids, weights, send_counts, pair_counts,
            send_tokens, headers, token_rows, pair_rows);
}

template <typename Visitor>
void VisitTensors(PackRowsArgs& args, const Visitor& visit) {
  auto& [shape, x, send_counts, send_tokens, chunks] = args;
  VisitEach(visit, shape, x, send_counts, send_tokens, chunks);
}

template <typename Visitor>
void VisitTensors(SortRowsArgs& args, const Visitor& visit) {
  auto& [shape, padded, headers, recv_counts, pair_counts, offsets, row_index, sorted_rows,
         result_rows] = args;
  VisitEach(visit, shape, padded, headers, recv_counts, pair_counts, offsets, row_index,
            sorted_rows, result_rows);
}

template <typename Visitor>
void VisitTensors(SumResultsArgs& args, const Visitor& visit) {
  auto& [shape, headers, recv_counts, sorted_rows, y, chunks] = args;
  VisitEach(visit, shape, headers, recv_counts, sorted_rows, y, chunks);
}

template <typename Visitor>
void VisitTensors(PackResultsArgs& args, const Visitor& visit) {
  auto& [shape, headers, recv_counts, sorted_rows, result_rows, y, chunks] = args;
  VisitEach(visit, shape, headers, recv_counts, sorted_rows, result_rows, y, chunks);
}

template <typename Visitor>
void VisitTensors(CheckReturnArgs& args, const Visitor& visit) {
  auto& [sent, returned] = args;
  VisitEach(visit, sent, returned);
}

template <typename Visitor>
void VisitTensors(AddRanksArgs& args, const Visitor& visit) {
  auto& [chunks, token_rows, out] = args;
  VisitEach(visit, chunks, token_rows, out);
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_QUEUED_VISIT_TENSORS_H_
