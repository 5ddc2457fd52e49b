#include "engine/kv_preparation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/scheduler/largest_step.h"
#include "kernels/core/host_device.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops.h"

namespace tessera {
namespace {

// A group's block is spread over its tensor-parallel ranks.
int64_t RanksOfGroup(const EngineOptions& options) {
  return std::max(options.model.layout.tensor_parallel, 1);
}

int32_t ContextLimit(const EngineOptions& options, const ModelConfig& config) {
  return options.model.max_model_len > 0 ? options.model.max_model_len : config.context_limit();
}

absl::Status AllocateKv(Executor& executor, int32_t num_blocks, int64_t block_bytes) {
  const absl::Status status = executor.AllocateKv(num_blocks);
  if (!absl::IsResourceExhausted(status)) return status;
  return absl::ResourceExhaustedError(absl::StrCat(
      "a KV cache of ", num_blocks * block_bytes, " bytes does not fit: ", status.message(),
      "; give the KV cache less memory (--kv-cache-memory) or free some"));
}

// What is in use on devices once the largest step has run: steps, transports and modules have what
// they need then, and keep it.
absl::StatusOr<MemoryReport> RunLargestStep(const EngineOptions& options, const ModelConfig& config,
                                            Executor& executor) {
  const SchedulerOptions& scheduler = options.scheduler;
  const StepSize size{.num_groups = std::max(executor.num_groups(), 1),
                      .max_tokens = scheduler.max_num_batched_tokens,
                      .max_num_seqs = scheduler.max_num_seqs,
                      .max_positions = ContextLimit(options, config),
                      .block_size = scheduler.block_size};
  const absl::Status room = executor.AllocateTrialKv(NumBlocks(size));
  if (absl::IsResourceExhausted(room)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "no room for the largest step: ", room.message(), "; lower --max-num-batched-tokens (",
        size.max_tokens, ") or spread the model over more GPUs (--tensor-parallel-size)"));
  }
  RETURN_IF_ERROR(room);
  executor.Submit(LargestStep(size));
  RETURN_IF_ERROR(executor.Wait().status());
  RETURN_IF_ERROR(executor.AllocateTrialKv(1));  // gives the others back, and looks at what is free
  return executor.memory();
}

absl::StatusOr<int64_t> RoomOnDevices(const EngineOptions& options, const ModelConfig& config,
                                      Executor& executor) {
  const double share = options.gpu_memory_utilization.value_or(kGpuMemoryUtilization);
  ASSIGN_OR_RETURN(const MemoryReport memory, RunLargestStep(options, config, executor));
  const int64_t used =
      memory.device_bytes - memory.device_free_bytes - memory.kv_block_bytes + memory.graph_bytes;
  const auto budget = static_cast<int64_t>(share * static_cast<double>(memory.device_bytes));
  if (budget > used) return budget - used;
  return absl::ResourceExhaustedError(absl::StrCat(
      "weights (", memory.weight_bytes, " bytes), buffers and what else is on a GPU take ", used,
      " of its ", memory.device_bytes, " bytes, more than --gpu-memory-utilization ", share,
      " allows: raise it, lower --max-num-batched-tokens or --max-num-seqs, or spread the model "
      "over more GPUs (--tensor-parallel-size)"));
}

// An emulated GPU's memory is a part of the host's.
int64_t FreeHostMemory(const MemoryReport& memory, int64_t groups, int64_t ranks) {
  const int64_t host = AvailableHostMemory() / groups;
  return memory.device_bytes > 0 ? std::min(host, memory.device_free_bytes * ranks) : host;
}

}  // namespace

absl::StatusOr<KvSizing> PrepareKv(const EngineOptions& options, const ModelConfig& config,
                                   Executor& executor) {
  if (const double share = options.gpu_memory_utilization.value_or(1); !(share > 0 && share <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu-memory-utilization: must be in (0, 1], got ", share));
  }
  const MemoryReport loaded = executor.memory();
  const int64_t ranks = RanksOfGroup(options);
  KvSizingInputs inputs{.kv_cache_bytes = options.kv_cache_bytes,
                        .block_bytes = loaded.kv_block_bytes * ranks,
                        .block_size = options.scheduler.block_size,
                        .max_num_seqs = options.scheduler.max_num_seqs,
                        .model_limit = config.context_limit(),
                        .max_model_len = options.model.max_model_len};
  inputs.reserved =
      options.kv_cache_bytes == 0 && loaded.device_bytes > 0 &&
      (options.gpu_memory_utilization.has_value() || !UsesHostMemory(options.model.backend));
  if (inputs.reserved) {
    ASSIGN_OR_RETURN(const int64_t room, RoomOnDevices(options, config, executor));
    inputs.available_bytes = room * ranks;
  } else {
    inputs.available_bytes = FreeHostMemory(loaded, std::max(executor.num_groups(), 1), ranks);
  }
  ASSIGN_OR_RETURN(const KvSizing sizing, SizeKvCache(inputs));
  RETURN_IF_ERROR(AllocateKv(executor, sizing.num_blocks, inputs.block_bytes));
  return sizing;
}

}  // namespace tessera
