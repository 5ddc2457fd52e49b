// The largest plan of a group.
#ifndef TESSERA_TESTS_ENGINE_EXECUTOR_FULL_PLAN_H_
#define TESSERA_TESTS_ENGINE_EXECUTOR_FULL_PLAN_H_

#include <cstdint>

#include "engine/executor/plan_limits.h"
#include "engine/scheduler/step_plan.h"
#include "engine/types.h"
#include "kernels/core/bit_mask.h"

namespace tessera {

// Two tokens of the same sequence, and a row for each of them.
inline void AddTwoRows(int32_t s, const PlanLimits& limits, BatchPlan* plan) {
  const int32_t table = static_cast<int32_t>(plan->block_tables.size());
  for (int32_t b = 0; b < plan->max_blocks; ++b) plan->block_tables.push_back(b);
  for (int32_t p = limits.max_positions - 2; p < limits.max_positions; ++p) {
    const int32_t block = plan->block_tables[table + p / limits.block_size];
    plan->token_ids.push_back(limits.vocab_size - 1);
    plan->token_source.push_back(-1);
    plan->positions.push_back(p);
    plan->slot_mapping.push_back(block * limits.block_size + p % limits.block_size);
    plan->logits_rows.push_back(plan->num_tokens() - 1);
    plan->sampling.position.push_back(p + 1);
  }
  plan->cu_seqlens.push_back(plan->num_tokens());
  plan->context_lens.push_back(limits.max_positions);
  SamplingPlan& sampling = plan->sampling;
  sampling.penalty_slot.insert(sampling.penalty_slot.end(), {-1, s});
  sampling.penalty_reset.insert(sampling.penalty_reset.end(), {0, 1});
  sampling.mask_row.insert(sampling.mask_row.end(), {-1, s});
}

// A group in which every array is as long as the limits let it be. Lists and adjustments lie where
// a scheduler would put them: in the last row of each sequence. max_tokens has to be 2 *
// max_num_seqs.
inline BatchPlan FullGroup(const PlanLimits& limits) {
  BatchPlan plan;
  plan.cu_seqlens = {0};
  plan.max_blocks = static_cast<int32_t>(limits.max_blocks_per_sequence());
  for (int32_t s = 0; s < limits.max_num_seqs; ++s) AddTwoRows(s, limits, &plan);
  SamplingPlan& sampling = plan.sampling;
  const int32_t rows = plan.num_logits();
  sampling.forced.assign(rows, -1);
  sampling.top_k.assign(rows, 0);
  sampling.seed.assign(rows, -1);
  sampling.num_logprobs.assign(rows, 20);
  for (auto* values :
       {&sampling.temperature, &sampling.top_p, &sampling.min_p, &sampling.repetition_penalty,
        &sampling.presence_penalty, &sampling.frequency_penalty}) {
    values->assign(rows, 1.0F);
  }
  sampling.mask_penalty.assign(rows, 1.0F);
  plan.copy_from.assign(limits.max_num_seqs, 0);
  for (int32_t s = 0; s < limits.max_num_seqs; ++s) plan.copy_to.push_back(1 + s);
  sampling.num_masks = limits.max_num_seqs;
  sampling.masks.assign(sampling.num_masks * MaskWords(limits.vocab_size), -1);
  const auto listed = static_cast<int32_t>(limits.max_listed());
  sampling.pen_offsets = {0};
  sampling.adj_offsets = {0};
  for (int32_t s = 0; s < limits.max_num_seqs; ++s) {
    sampling.pen_offsets.insert(sampling.pen_offsets.end(), {s == 0 ? 0 : listed, listed});
    sampling.adj_offsets.insert(sampling.adj_offsets.end(),
                                {s * kMaxRowAdjustments, (s + 1) * kMaxRowAdjustments});
  }
  sampling.pen_tokens.assign(listed, 3);
  sampling.pen_counts.assign(listed, 1);
  sampling.adj_tokens.assign(sampling.adj_offsets.back(), 4);
  sampling.adj_values.assign(sampling.adj_offsets.back(), -1.0F);
  return plan;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_EXECUTOR_FULL_PLAN_H_
