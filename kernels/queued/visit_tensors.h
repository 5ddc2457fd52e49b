// Applies a visitor to every field of an argument struct. The structured bindings name all fields,
// so a field that is added to ops.h and forgotten here does not compile.
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
void VisitTensors(ConcatColumnsArgs& args, const Visitor& visit) {
  auto& [shards, out] = args;
  VisitEach(visit, shards, out);
}

template <typename Visitor>
void VisitTensors(SampleArgs& args, const Visitor& visit) {
  auto& [logits, forced, temperature, top_k, top_p, min_p, repetition, presence, frequency, seed,
         position, pen_offsets, pen_tokens, pen_counts, adj_offsets, adj_tokens, adj_values, masks,
         mask_row, num_logprobs, token, logprob, rank, top_tokens, top_logprobs] = args;
  VisitEach(visit, logits, forced, temperature, top_k, top_p, min_p, repetition, presence,
            frequency, seed, position, pen_offsets, pen_tokens, pen_counts, adj_offsets, adj_tokens,
            adj_values, masks, mask_row, num_logprobs, token, logprob, rank, top_tokens,
            top_logprobs);
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_QUEUED_VISIT_TENSORS_H_
