// What a step of a model takes, counted: the engine's own forward pass (engine/model) over a
// backend and communicators that only write down what they are asked for.
#ifndef TESSERA_TESTS_BENCH_COUNTED_STEP_H_
#define TESSERA_TESTS_BENCH_COUNTED_STEP_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/planning/gpu_table.h"
#include "parallel/topology.h"
#include "tests/bench/counting_ops.h"

namespace tessera {

// The same for every data-parallel group.
struct CountedShape {
  int64_t sequences = 1;
  int64_t query = 1;    // tokens of each in this step
  int64_t context = 1;  // positions of each, these included
  DType dtype = DType::kBF16;
};

// The operations of rank 0 in their order, for experts that exchange by all-reduce.
// INVALID_ARGUMENT for a layout that the model cannot have.
absl::StatusOr<std::vector<CountedOperation>> CountStep(const ModelConfig& config,
                                                        const LayoutRequest& layout,
                                                        const CountedShape& step);

struct StepTotals {
  int64_t launches = 0;  // operations that are no collectives
  int64_t collectives = 0;
  double bytes = 0;
  double flops = 0;
  double sent = 0;
};
StepTotals Total(const std::vector<CountedOperation>& operations);

// Seconds if every operation ran at the shares of the datasheet's figures that good kernels reach
// (engine/planning/step_model.h), one behind the other, with `launch_seconds` between two of them.
double PredictedSeconds(const std::vector<CountedOperation>& operations, const GpuSpec& gpu,
                        double launch_seconds);

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_COUNTED_STEP_H_
