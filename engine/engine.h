// The engine: requests in, token deltas out. A façade over one engine thread.
#ifndef TESSERA_ENGINE_ENGINE_H_
#define TESSERA_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/executor/executor.h"
#include "engine/options.h"
#include "engine/types.h"

namespace tessera {

class Tokenizer;
struct ModelConfig;

// A snapshot of the counters behind /metrics and GetLoad. Counters only grow.
struct EngineStats {
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int64_t num_waiting_tokens = 0;
  int32_t kv_blocks_total = 0;
  int32_t kv_blocks_used = 0;        // referenced by sequences
  int32_t kv_blocks_cached = 0;      // unreferenced, content kept
  int32_t kv_blocks_free = 0;        // unreferenced, content worthless
  int64_t prefix_cache_queries = 0;  // tokens
  int64_t prefix_cache_hits = 0;     // tokens
  int64_t prompt_tokens = 0;
  int64_t prompt_tokens_cached = 0;
  int64_t generation_tokens = 0;
  int64_t reasoning_tokens = 0;
  int64_t num_preemptions = 0;
  int64_t num_steps = 0;
  // Graphs of decode steps of one rank, and the device memory that they take.
  int32_t step_graphs = 0;
  int64_t step_graph_bytes = 0;
  // Age of the last finished step while work is pending, zero when idle.
  absl::Duration step_age = absl::ZeroDuration();
  bool alive = true;
};

// One finished step, for metrics. Called on the engine thread; must not block.
struct StepEvent {
  absl::Duration duration;   // from scheduling to the results in the books
  absl::Duration execution;  // of this, the executor's part: what the ranks took
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  bool after_rest = false;        // there was nothing to do before it: devices waited for requests
  std::vector<RankReport> ranks;  // of all ranks
  std::shared_ptr<const ExpertLoads> expert_loads;  // in steps that exchanged them
};

struct EngineHooks {
  std::function<void(const StepEvent&)> on_step;  // may be empty
  // The executor failed, or a step hangs (EngineOptions::step_timeout); called once, then by the
  // watchdog's thread.
  std::function<void(const absl::Status&)> on_dead;
};

// Thread-safe. Submit and Cancel never block on a step.
class Engine {
 public:
  // Sizes and allocates the KV cache, then starts the engine thread.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        const ModelConfig& config,
                                                        std::shared_ptr<const Tokenizer> tokenizer,
                                                        std::unique_ptr<Executor> executor,
                                                        EngineHooks hooks);
  // Waits for the engine thread, also when it hangs: after on_dead, better end the process.
  virtual ~Engine() = default;

  // RESOURCE_EXHAUSTED when the queue is full of requests that are as important; less important
  // ones, and those of a tenant who has more there than others, make room and end
  // RESOURCE_EXHAUSTED. UNAVAILABLE when draining or dead, INVALID_ARGUMENT
  // when prompt + max_tokens can never fit. The sink is called from now on.
  virtual absl::StatusOr<RequestId> Submit(GenerateRequest request,
                                           std::shared_ptr<ResponseSink> sink) = 0;
  // Idempotent. OnDone(CANCELLED or `status`) follows within one step.
  virtual void Cancel(RequestId id, absl::Status status = absl::CancelledError("cancelled")) = 0;
  virtual EngineStats stats() const = 0;
  // Requests that wait and would run before one of this priority and tenant that came now.
  virtual int32_t NumWaitingBefore(int32_t priority, const TenantClaim& tenant) const = 0;
  // What each tenant has waiting, of those who have anything.
  virtual std::vector<TenantBacklog> Backlogs() const = 0;
  // The context limit in force, tokens.
  virtual int32_t max_model_len() const = 0;
  // Refuses new requests, waits for the running ones; those left at the deadline end UNAVAILABLE.
  virtual absl::Status Drain(absl::Time deadline) = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_ENGINE_H_
