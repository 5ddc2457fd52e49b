// What a step plan may hold, and so how large its bytes can get: nothing a client sends makes them
// larger.
#ifndef TESSERA_ENGINE_EXECUTOR_PLAN_LIMITS_H_
#define TESSERA_ENGINE_EXECUTOR_PLAN_LIMITS_H_

#include <cstdint>

#include "absl/status/status.h"

namespace tessera {

// What a rank can run. A plan within these limits reaches no CHECK and no memory outside the
// rank's buffers.
struct PlanLimits {
  int32_t num_groups = 1;
  int32_t num_ranks = 1;
  int32_t vocab_size = 0;
  int32_t block_size = 0;
  int32_t num_blocks = 0;     // per group
  int32_t max_tokens = 0;     // of one group in one step
  int32_t max_num_seqs = 0;   // of one group in one step; slots of its penalty table
  int32_t max_positions = 0;  // context limit

  // Blocks of the longest sequence, however many there are.
  int64_t max_blocks_per_sequence() const {
    return (int64_t{max_positions} + block_size - 1) / block_size;
  }
  // Each sequence draws at most one token in a step: what shapes a draw is bounded by sequences,
  // not by rows.
  int64_t max_adjustments() const;
  int64_t max_listed() const;  // tokens in lists of penalties
};

// Bytes of the largest plan that ValidateStepPlan (step_plan_codec.h) accepts; the largest int64_t
// when that is too small a type. num_blocks does not matter.
int64_t LargestStepPlanBytes(const PlanLimits& limits);

// INVALID_ARGUMENT, in words for an operator, when a message of `max_bytes` cannot hold every plan.
absl::Status CheckPlansFit(const PlanLimits& limits, int64_t max_bytes);
// INTERNAL when an encoded plan is larger than any plan may be: it is not to be sent.
absl::Status CheckStepPlanBytes(uint64_t step_id, int64_t bytes, const PlanLimits& limits);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_PLAN_LIMITS_H_
