#include "server/commands/engine_flags.h"

#include <atomic>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/model/model_config.h"
#include "server/logging.h"

namespace tessera {

void AddCpuIsaOption(OptionTable* table, std::string* cpu_isa) {
  table->Choice(
      "cpu-isa", cpu_isa, {"auto", "portable", "avx2", "avx512", "avx512bf16", "amx"},
      "Vector instructions of the cpu backend; auto: the fastest of this machine. Machines that "
      "multiply bfloat16 with different ones round differently.");
}

void AddEmulatedGpusOption(OptionTable* table, int32_t* gpus) {
  constexpr int64_t kMaxGpus = 64;
  table->Integer("emulated-gpus", gpus, {0, kMaxGpus},
                 "Of the cuda-emulated backend: how many GPUs this process has; 0: eight.");
}

void AddChatTemplateOption(OptionTable* table, std::string* chat_template) {
  table->Text("chat-template", chat_template,
              "File with the template of chats, or the name of one of several that the model has "
              "(rag); unset: tool_use for requests with tools if there is one, else default.");
}

void AddModelOptions(OptionTable* table, EngineOptions* options) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  constexpr int64_t kMaxRanks = 1024;
  ModelOptions& model = options->model;
  SchedulerOptions& scheduler = options->scheduler;
  table->Section("Model");
  table->Choice(
      "backend", &model.backend, {"auto", "cpu", "cuda", "cuda-emulated", "ref", "queued"},
      "Kernels: cuda for GPUs, cpu is fast without one, auto takes a GPU if there is one; "
      "for tests: cuda-emulated runs the GPU's kernels on the CPU and checks every access, "
      "slowly, ref is the plain oracle, queued is ref behind a device queue.");
  table->Type("dtype", &model.dtype,
              "Type of weights, keys and values; on all but cpu also of activations.");
  table->Integer(
      "threads", &model.num_threads, {0, 4096},
      "Threads of all ranks together; 0: the CPUs this process may use, by affinity and by the "
      "quota of its control groups.");
  AddCpuIsaOption(table, &model.cpu_isa);
  AddEmulatedGpusOption(table, &model.emulated_gpus);
  table->Choice("gemm", &model.gemm, {"ours", "cublas"},
                "Products of GPUs: our kernels, or those of NVIDIA's cuBLASLt, found at run time "
                "(libcublasLt.so.13 or .12). With cublas a token's bits may depend on what is "
                "served beside it: it chooses how to multiply by the size of the batch, too.");
  table->Integer("max-model-len", &model.max_model_len, {0, kMax},
                 "Tokens of prompt and output together; 0: the model's context.");
  table->Section("Layout");
  table->Integer("tensor-parallel-size", &model.layout.tensor_parallel, {1, kMaxRanks},
                 "Ranks that share every layer.");
  table->Integer("data-parallel-size", &model.layout.data_parallel, {1, kMaxRanks},
                 "Groups of ranks with requests and KV cache of their own.");
  table->Flag("enable-expert-parallel", &model.layout.expert_parallel,
              "Spread whole experts over the ranks instead of slicing them.");
  table->Choice("moe-comm", &model.layout.moe_comm, {"auto", "allreduce", "alltoall"},
                "How experts exchange tokens; auto: the quicker way, measured once at start.");
  table->Integer("expert-rebalance-interval", &model.layout.expert_rebalance_interval, {0, kMax},
                 "Steps between decisions whether experts should move to less busy ranks; 0: they "
                 "stay.");
  table->Integer("expert-spare-slots", &model.layout.expert_spare_slots, {0, 1 << 16},
                 "Room for further experts on every rank, per layer, when experts move: one for "
                 "moves, the others for copies of busy experts; 0: two.");
  table->Section("Scheduling");
  table->Integer("max-num-seqs", &scheduler.max_num_seqs, {1, 1 << 16},
                 "Sequences in a batch, per group.");
  table->Integer("max-num-batched-tokens", &scheduler.max_num_batched_tokens, {1, 1 << 20},
                 "Tokens per step and group.");
  table->Integer(
      "max-prefill-chunk", &scheduler.max_prefill_chunk, {1, 1 << 20},
      "Most prompt tokens of one request per step while others run or wait; fewer, down to 64, "
      "where they would hold up the others.");
  table->Integer("block-size", &scheduler.block_size, {1, 256}, "Tokens per KV block.");
  table->Bytes("kv-cache-memory", &options->kv_cache_bytes,
               {0, std::numeric_limits<int64_t>::max()},
               "KV cache per group, for example 2GiB; 0: on GPUs what --gpu-memory-utilization "
               "leaves, else a quarter of the free memory, at most 4GiB.");
  table->Real(
      "gpu-memory-utilization", &options->gpu_memory_utilization,
      "Share of each GPU's memory that may be in use, other programs' included, above 0 and "
      "at most 1: what the weights and the largest step, run once at start, leave of it "
      "holds keys and values. Unset: 0.9; emulated GPUs are sized like CPUs.");
  table->Integer("max-queued-requests", &scheduler.max_queued_requests, {1, 1 << 20},
                 "Requests that may wait.");
  table->Integer("max-queued-tokens", &scheduler.max_queued_tokens, {1, int64_t{1} << 40},
                 "Prompt tokens that may wait.");
  table->Flag("enable-prefix-caching", &scheduler.enable_prefix_cache,
              "Reuse the KV blocks of equal prefixes.");
  table->Milliseconds("queued-step-delay-ms", &model.queued_step_delay,
                      "Of the queued backend: what a step takes at least, whatever the host does.");
  table->Integer("steps-under-way", &model.steps_under_way, {0, 2},
                 "Steps that begin before the results of the first are known; 0: 2 where a device "
                 "would idle while the next step is planned, else 1. Not more than 1 while experts "
                 "may move. The tokens are the same.");
  table->Milliseconds("batch-wait-ms", &scheduler.batch_wait,
                      "How long an idle engine waits for company before it starts a batch.");
}

LoadProgress LogLoadProgress(const std::string& model_dir) {
  auto shown = std::make_shared<std::atomic<int>>(-1);
  return [shown, model_dir](double ratio) {
    const int tenth = static_cast<int>(ratio * 10);
    int last = shown->load();
    while (tenth > last) {
      if (!shown->compare_exchange_weak(last, tenth)) continue;
      LogInfo(absl::StrCat("loading ", model_dir, ": ", tenth * 10, " %"));
      return;
    }
  };
}

absl::StatusOr<std::unique_ptr<ModelRuntime>> LoadRuntime(const RuntimeOptions& options) {
  return ModelRuntime::Load(options, LogLoadProgress(options.engine.model.model_dir), {});
}

void MakeRoomFor(int64_t num_tokens, EngineOptions* options) {
  constexpr int64_t kMostTokens = 1 << 24;
  const auto config = LoadModelConfig(options->model.model_dir);
  if (!config.ok() || options->model.max_model_len != 0) return;
  if (num_tokens <= config->context_limit() || num_tokens > kMostTokens) return;
  options->model.max_model_len = static_cast<int32_t>(num_tokens);
}

}  // namespace tessera
