#include "engine/scheduler/largest_step.h"

#include <algorithm>

namespace tessera {
namespace {

int32_t CeilDiv(int32_t a, int32_t b) { return a / b + (a % b == 0 ? 0 : 1); }

int32_t NumSequences(const StepSize& size) { return std::min(size.max_num_seqs, size.max_tokens); }

// Tokens of sequence s: equal parts.
int32_t Length(const StepSize& size, int32_t s) {
  const int32_t sequences = NumSequences(size);
  const int32_t part = size.max_tokens / sequences + (s < size.max_tokens % sequences ? 1 : 0);
  return std::min(part, size.max_positions);
}

// Gives the sequence the blocks from `block` on; returns how many.
int32_t AddSequence(const StepSize& size, int32_t length, int32_t block, BatchPlan* plan) {
  for (int32_t position = 0; position < length; ++position) {
    plan->token_ids.push_back(0);
    plan->token_source.push_back(-1);
    plan->positions.push_back(position);
    plan->slot_mapping.push_back(block * size.block_size + position);
  }
  plan->cu_seqlens.push_back(plan->num_tokens());
  plan->context_lens.push_back(length);
  plan->logits_rows.push_back(plan->num_tokens() - 1);
  const int32_t blocks = CeilDiv(length, size.block_size);
  for (int32_t i = 0; i < plan->max_blocks; ++i) {
    plan->block_tables.push_back(i < blocks ? block + i : -1);
  }
  return blocks;
}

BatchPlan LargestGroup(const StepSize& size) {
  BatchPlan plan;
  plan.cu_seqlens = {0};
  plan.max_blocks = CeilDiv(size.max_positions, size.block_size);
  int32_t block = 0;
  for (int32_t s = 0; s < NumSequences(size); ++s) {
    block += AddSequence(size, Length(size, s), block, &plan);
  }
  plan.sampling = GreedyRows(plan.context_lens);
  return plan;
}

}  // namespace

SamplingPlan GreedyRows(const std::vector<int32_t>& positions) {
  const size_t rows = positions.size();
  SamplingPlan plan;
  plan.forced.assign(rows, -1);
  plan.temperature.assign(rows, 0.0F);
  plan.top_k.assign(rows, 0);
  plan.top_p.assign(rows, 1.0F);
  plan.min_p.assign(rows, 0.0F);
  plan.repetition_penalty.assign(rows, 1.0F);
  plan.presence_penalty.assign(rows, 0.0F);
  plan.frequency_penalty.assign(rows, 0.0F);
  plan.seed.assign(rows, 0);
  plan.position = positions;
  plan.num_logprobs.assign(rows, -1);
  plan.penalty_slot.assign(rows, -1);
  plan.penalty_reset.assign(rows, 0);
  plan.pen_offsets.assign(rows + 1, 0);
  plan.adj_offsets.assign(rows + 1, 0);
  plan.mask_row.assign(rows, -1);
  plan.mask_penalty.assign(rows, 0.0F);
  return plan;
}

StepPlan LargestStep(const StepSize& size) {
  StepPlan plan;
  plan.groups.assign(size.num_groups, LargestGroup(size));
  return plan;
}

int32_t NumBlocks(const StepSize& size) {
  int32_t blocks = 0;
  for (int32_t s = 0; s < NumSequences(size); ++s) {
    blocks += CeilDiv(Length(size, s), size.block_size);
  }
  return blocks;
}

}  // namespace tessera
