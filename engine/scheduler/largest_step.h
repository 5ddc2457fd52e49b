// The step that needs the most memory there is for steps: run once, it shows what is left.
#ifndef TESSERA_ENGINE_SCHEDULER_LARGEST_STEP_H_
#define TESSERA_ENGINE_SCHEDULER_LARGEST_STEP_H_

#include <cstdint>
#include <vector>

#include "engine/scheduler/step_plan.h"

namespace tessera {

// Rows that take the likeliest token: row n is the one before positions[n].
SamplingPlan GreedyRows(const std::vector<int32_t>& positions);

struct StepSize {
  int32_t num_groups = 1;
  int32_t max_tokens = 0;     // of one group
  int32_t max_num_seqs = 0;   // of one group
  int32_t max_positions = 0;  // context limit
  int32_t block_size = 0;
};

// As many sequences as a step may have, with all the tokens that it may have between them, in every
// group; tables of blocks as wide as the longest context needs. Contexts are no longer than the
// tokens, so that the step reads and writes NumBlocks(size) blocks of KV only.
StepPlan LargestStep(const StepSize& size);
int32_t NumBlocks(const StepSize& size);

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_LARGEST_STEP_H_
