// All ranks in this process, one worker thread each.
#ifndef TESSERA_ENGINE_EXECUTOR_LOCAL_EXECUTOR_H_
#define TESSERA_ENGINE_EXECUTOR_LOCAL_EXECUTOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "engine/executor/rank_group.h"
#include "engine/load_progress.h"
#include "engine/model/model_config.h"
#include "engine/options.h"

namespace tessera {

// Verifies the checkpoint, loads every rank's slices (in parallel) and starts the workers.
// Errors name the file, the tensor or the option that is wrong. `progress` is the slowest rank's.
absl::StatusOr<std::unique_ptr<Executor>> CreateLocalExecutor(const ModelOptions& options,
                                                              const ExecutorLimits& limits,
                                                              const ModelConfig& config,
                                                              const LoadProgress& progress);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_LOCAL_EXECUTOR_H_
