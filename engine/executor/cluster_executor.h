// The head of a group of processes: its own ranks, and those of the other nodes.
#ifndef TESSERA_ENGINE_EXECUTOR_CLUSTER_EXECUTOR_H_
#define TESSERA_ENGINE_EXECUTOR_CLUSTER_EXECUTOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/executor/cluster_options.h"
#include "engine/executor/executor.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "engine/options.h"

namespace tessera {

// Waits until all nodes have joined, then loads every rank's slices. A node that is lost, or
// silent for limits.step_timeout, ends the group: Wait fails with UNAVAILABLE and names it.
// Errors tell which option, file or node is at fault.
absl::StatusOr<std::unique_ptr<Executor>> CreateClusterExecutor(const ModelOptions& options,
                                                                const ExecutorLimits& limits,
                                                                const ModelConfig& config,
                                                                const HeadOptions& head,
                                                                const LoadProgress& progress);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_CLUSTER_EXECUTOR_H_
