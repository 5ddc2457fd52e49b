// Turns the scheduler's decision into the flat arrays of a BatchPlan.
#ifndef TESSERA_ENGINE_SCHEDULER_PLAN_ARRAYS_H_
#define TESSERA_ENGINE_SCHEDULER_PLAN_ARRAYS_H_

#include <cstdint>
#include <vector>

#include "engine/scheduler/sequence.h"
#include "engine/scheduler/step_plan.h"

namespace tessera {

// A sequence's share of a step: `num_tokens` tokens from its num_planned on, and where its rows
// of logits are.
struct PlannedSequence {
  Sequence* sequence = nullptr;
  int32_t num_tokens = 0;
  int32_t num_preemptions = 0;  // of the sequence, when the step was planned
  // Set by BuildPlan. Prompt-logprob rows come first, then the row that draws the next token.
  int32_t first_row = 0;
  int32_t num_prompt_rows = 0;
  bool samples = false;
};

// Fills in the rows of `planned`, and remembers whose penalties the plan lists: the rows of later
// plans need nothing that the device does not have, the last token included. Every sequence has
// blocks for its tokens. Without sequences the offset arrays still hold their leading 0: a group
// without work takes part in the step.
BatchPlan BuildPlan(int32_t block_size, std::vector<PlannedSequence>* planned);

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_PLAN_ARRAYS_H_
