// Valid step plans and results for tests of their wire form.
#ifndef TESSERA_TESTS_ENGINE_EXECUTOR_RANDOM_PLAN_H_
#define TESSERA_TESTS_ENGINE_EXECUTOR_RANDOM_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "engine/executor/step_plan_codec.h"

namespace tessera {

inline constexpr PlanLimits kRandomPlanLimits{.num_groups = 2,
                                              .num_ranks = 4,
                                              .vocab_size = 300,
                                              .block_size = 4,
                                              .num_blocks = 64,
                                              .max_tokens = 128,
                                              .max_num_seqs = 6,
                                              .max_positions = 64};

inline constexpr int kRandomPlanMaskWords = 10;  // of 300 ids

// Plans and results within the limits above, a function of the seed.
class RandomPlan {
 public:
  explicit RandomPlan(uint32_t seed) : random_(seed) {}

  StepPlan Plan() {
    StepPlan plan;
    plan.step_id = random_();
    plan.return_logits = Below(2) == 1;
    for (int g = 0; g < kRandomPlanLimits.num_groups; ++g) plan.groups.push_back(Batch(Below(5)));
    return plan;
  }

  BatchPlan Batch(int sequences) {
    BatchPlan plan;
    plan.cu_seqlens = {0};
    plan.sampling.pen_offsets = {0};
    plan.sampling.adj_offsets = {0};
    plan.max_blocks =
        sequences == 0 ? 0 : kRandomPlanLimits.max_positions / kRandomPlanLimits.block_size;
    for (int s = 0; s < sequences; ++s) AddSequence(&plan);
    for (int s = Below(sequences + 1); s > 0; --s) {
      plan.copy_from.push_back(Below(32));
      plan.copy_to.push_back(63 - s);
    }
    return plan;
  }

  NodeStepResult Result() {
    NodeStepResult result{.step_id = random_(), .group_ids = {0, 1}, .groups = {}};
    for (int g = 0; g < 2; ++g) {
      BatchResult group;
      const int rows = Below(4);
      group.num_top = Below(3);
      for (int i = 0; i < rows; ++i) {
        group.token.push_back(Below(301) - 1);
        group.logprob.push_back(-1.5F * static_cast<float>(i));
        group.rank.push_back(i);
      }
      group.top_tokens.assign(rows * group.num_top, 7);
      group.top_logprobs.assign(rows * group.num_top, -2.0F);
      if (Below(2) == 1) group.logits.assign(rows * kRandomPlanLimits.vocab_size, 0.5F);
      result.groups.push_back(group);
    }
    for (int rank = Below(3); rank < kRandomPlanLimits.num_ranks; rank += 1 + Below(2)) {
      RankReport report{.rank = rank, .step_seconds = 0.5F, .expert_rows = Below(100)};
      report.collective_seconds[Below(kNumCollectiveOps)] = 0.25F;
      report.collectives_timed = Below(2) == 0;
      result.ranks.push_back(report);
    }
    return result;
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % n); }

  void AddSequence(BatchPlan* plan) {
    const int context = 1 + Below(kRandomPlanLimits.max_positions);
    const int rows = 1 + Below(std::min(context, 20));
    const size_t table = plan->block_tables.size();
    for (int b = 0; b < plan->max_blocks; ++b) plan->block_tables.push_back(Below(64));
    for (int p = context - rows; p < context; ++p) {
      const bool drawn = Below(4) == 0;
      plan->token_ids.push_back(drawn ? -1 : Below(kRandomPlanLimits.vocab_size));
      plan->token_source.push_back(drawn ? Below(kRandomPlanLimits.max_tokens) : -1);
      plan->positions.push_back(p);
      plan->slot_mapping.push_back(plan->block_tables[table + p / 4] * 4 + p % 4);
    }
    plan->cu_seqlens.push_back(plan->num_tokens());
    plan->context_lens.push_back(context);
    if (Below(3) > 0) AddRow(plan);
  }

  void AddRow(BatchPlan* plan) {
    plan->logits_rows.push_back(plan->num_tokens() - 1);
    SamplingPlan& s = plan->sampling;
    s.forced.push_back(Below(301) - 1);
    for (auto* values : {&s.temperature, &s.top_p, &s.min_p, &s.repetition_penalty,
                         &s.presence_penalty, &s.frequency_penalty}) {
      values->push_back(static_cast<float>(Below(100)) / 50);
    }
    s.top_k.push_back(Below(50));
    s.seed.push_back(static_cast<int64_t>(random_()) << 20);
    s.position.push_back(Below(64));
    s.num_logprobs.push_back(Below(5) - 1);
    const auto row = static_cast<int32_t>(s.penalty_slot.size());
    s.penalty_slot.push_back(Below(3) == 0 ? -1 : row);
    s.penalty_reset.push_back(s.penalty_slot.back() < 0 ? 0 : Below(2));
    for (int i = s.penalty_reset.back() * Below(4); i > 0; --i) {
      s.pen_tokens.push_back(Below(300));
      s.pen_counts.push_back(Below(9));
    }
    for (int i = Below(4); i > 0; --i) {
      s.adj_tokens.push_back(Below(300));
      s.adj_values.push_back(-std::numeric_limits<float>::infinity());
    }
    s.pen_offsets.push_back(static_cast<int32_t>(s.pen_tokens.size()));
    s.adj_offsets.push_back(static_cast<int32_t>(s.adj_tokens.size()));
    if (Below(2) == 0) {
      ++s.num_masks;
      for (int i = 0; i < kRandomPlanMaskWords; ++i)
        s.masks.push_back(static_cast<int32_t>(random_()));
    }
    s.mask_row.push_back(Below(s.num_masks + 1) - 1);
    s.mask_penalty.push_back(static_cast<float>(Below(9)));
  }

  std::mt19937 random_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_EXECUTOR_RANDOM_PLAN_H_
