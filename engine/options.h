// Options of the engine: one struct, one default each.
#ifndef TESSERA_ENGINE_OPTIONS_H_
#define TESSERA_ENGINE_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "kernels/core/dtype.h"

namespace tessera {

// How the model is laid out over ranks; world size = tensor_parallel * data_parallel.
struct LayoutOptions {
  int32_t tensor_parallel = 1;
  int32_t data_parallel = 1;
  bool expert_parallel = false;
  std::string moe_comm = "auto";  // auto, allreduce, alltoall
  // Steps between decisions whether experts should move to other ranks; 0: they never do.
  int32_t expert_rebalance_interval = 0;
  // Expert slots of every rank and layer beyond its share, when experts move; 0: two where that
  // many fit. One of them is kept free for moves, the others hold copies of busy experts.
  int32_t expert_spare_slots = 0;
};

struct ModelOptions {
  std::string model_dir;
  std::string backend = "cpu";   // see LinkedBackends
  DType dtype = DType::kBF16;    // kF32 or kBF16
  std::string cpu_isa = "auto";  // vector instructions of the cpu backend, see OpsOptions
  int32_t emulated_gpus = 0;     // of this process, see OpsOptions
  std::string gemm = "ours";     // products of GPUs, see OpsOptions
  int32_t num_threads = 0;       // of all local ranks together; 0: the CPUs this process may use
  int32_t max_model_len = 0;     // tokens; 0: the model's own context limit
  // Steps enqueued before the results of the first are known, 1 or 2; 0: two where a device would
  // idle while the host plans.
  int32_t steps_under_way = 0;
  absl::Duration queued_step_delay;  // of the queued backend: what a step takes at least
  LayoutOptions layout;
};

struct SchedulerOptions {
  int32_t max_num_seqs = 64;              // running sequences per group
  int32_t max_num_batched_tokens = 2048;  // tokens per step and group
  int32_t max_prefill_chunk = 512;        // most tokens of one prompt per step in company
  int32_t block_size = 16;                // tokens per KV block
  int32_t num_blocks = 0;                 // per group; set by the engine from kv_cache_bytes
  int32_t max_model_len = 0;              // set by the engine
  int32_t vocab_size = 0;                 // columns of the logits; set by the engine
  int32_t max_queued_requests = 1024;
  int64_t max_queued_tokens = 4 << 20;  // prompt tokens waiting
  bool enable_prefix_cache = true;
  absl::Duration batch_wait = absl::ZeroDuration();  // an idle engine waits so long for company
  // A waiting request gains one priority class per this time; must be positive.
  absl::Duration ageing = absl::Seconds(10);
};

inline constexpr double kGpuMemoryUtilization = 0.9;

struct EngineOptions {
  ModelOptions model;
  SchedulerOptions scheduler;
  int64_t kv_cache_bytes = 0;  // per group; 0: a quarter of the free memory, at most 4 GiB
  // When kv_cache_bytes is 0, of devices with memory of their own: the share of it, (0, 1], that
  // may be in use, by whomever, when all is allocated. What the largest step leaves of it holds KV.
  // Unset: kGpuMemoryUtilization on GPUs; emulated ones are sized like CPUs.
  std::optional<double> gpu_memory_utilization;
  // A step that takes longer ends the engine.
  absl::Duration step_timeout = absl::Seconds(60);
  // Tokens that end a text (generation_config.json); empty: those of config.json.
  std::vector<int32_t> eos_token_ids;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_OPTIONS_H_
