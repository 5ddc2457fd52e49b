// Requests that tests send to an engine on different layouts, alone and all at once.
#ifndef TESSERA_TESTS_ENGINE_EXECUTOR_WORKLOAD_H_
#define TESSERA_TESTS_ENGINE_EXECUTOR_WORKLOAD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/executor/rank_group.h"
#include "engine/model/model_config.h"
#include "engine/options.h"

namespace tessera {

constexpr int32_t kWorkloadRequests = 24;
constexpr int32_t kWorkloadBlockSize = 4;
constexpr int32_t kWorkloadMaxLen = 80;
// One request of the workload fills most of such a pool: two that run together cannot both finish.
constexpr int32_t kScarceBlocks = kWorkloadMaxLen / kWorkloadBlockSize;
constexpr int32_t kAmpleBlocks = 64 * kScarceBlocks;

struct Reply {
  // One entry per choice.
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> logprobs;  // of the tokens
  bool operator==(const Reply&) const = default;
};

struct Outcome {
  std::vector<Reply> replies;  // in the order of the requests
  EngineStats stats;

  std::vector<std::vector<std::vector<int32_t>>> tokens() const;
};

// How the requests meet the engine.
struct Load {
  int32_t num_blocks = kScarceBlocks;
  int32_t max_num_seqs = 6;
  bool prefix_cache = true;
  int32_t at_a_time = kWorkloadRequests;
  // Of the workload: the first requests, and tokens of each answer, at most.
  int32_t requests = kWorkloadRequests;
  int32_t tokens = kWorkloadMaxLen;
};
// One request after the other, with nothing kept from the one before.
constexpr Load kAlone{
    .num_blocks = kAmpleBlocks, .max_num_seqs = 1, .prefix_cache = false, .at_a_time = 1};

using MakeExecutor = std::function<absl::StatusOr<std::unique_ptr<Executor>>(
    const ModelOptions& options, const ExecutorLimits& limits, const ModelConfig& config)>;

// The same requests every time: greedy and seeded ones, two of three with a common prefix, and one
// with two choices.
absl::StatusOr<Outcome> RunWorkload(ModelOptions model, const Load& load, const MakeExecutor& make);
// In the ranks of one process.
absl::StatusOr<Outcome> RunWorkload(ModelOptions model, const Load& load);

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_EXECUTOR_WORKLOAD_H_
