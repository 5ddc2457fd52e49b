// A small MoE model whose router overloads the first rank, and a workload that never changes: for
// tests and benchmarks of moving experts.
#ifndef TESSERA_TESTS_SUPPORT_SKEWED_MOE_H_
#define TESSERA_TESTS_SUPPORT_SKEWED_MOE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"

namespace tessera {

struct SkewedMoeShape {
  int32_t layers = 3;
  int32_t hidden = 64;
  int32_t expert_width = 32;
  int32_t experts = 16;
};
inline constexpr int32_t kSkewedVocab = 128;

// Writes the model to a folder, which is created.
absl::Status WriteSkewedMoe(const SkewedMoeShape& shape, const std::string& folder);

// Every group computes a prompt and decodes three tokens, again and again: the steps of all rounds
// are the same, and so must be their results.
class SteadyWorkload {
 public:
  static constexpr int32_t kBlockSize = 16;
  static constexpr int32_t kNumBlocks = 16;  // of a group
  static constexpr int32_t kStepsPerRound = 4;

  // Groups first, first + 1, … of the workload run on the groups of the executor.
  SteadyWorkload(int32_t first_group, int32_t num_groups)
      : first_group_(first_group), texts_(num_groups) {}

  StepPlan Next();
  // The drawn tokens of the step, one per group.
  std::vector<int32_t> Take(const StepResult& result);

 private:
  BatchPlan Batch(int32_t group) const;

  const int32_t first_group_;
  std::vector<std::vector<int32_t>> texts_;  // of this round
  std::vector<int32_t> computed_;
  uint64_t step_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_SUPPORT_SKEWED_MOE_H_
