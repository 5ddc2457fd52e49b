// From options and memory to an allocated KV cache.
#ifndef TESSERA_ENGINE_KV_PREPARATION_H_
#define TESSERA_ENGINE_KV_PREPARATION_H_

#include "absl/status/statusor.h"
#include "engine/executor/executor.h"
#include "engine/kv_sizing.h"
#include "engine/model/model_config.h"
#include "engine/options.h"

namespace tessera {

// Sizes the KV cache, as options.kv_cache_bytes and options.gpu_memory_utilization say, and
// allocates it. On GPUs the executor runs its largest step for that. INVALID_ARGUMENT for a
// utilization outside (0, 1], RESOURCE_EXHAUSTED when memory is missing, with what would fit; and
// errors of that step.
absl::StatusOr<KvSizing> PrepareKv(const EngineOptions& options, const ModelConfig& config,
                                   Executor& executor);

}  // namespace tessera

#endif  // TESSERA_ENGINE_KV_PREPARATION_H_
