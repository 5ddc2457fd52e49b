// What every call of the service works with.
#ifndef TESSERA_SERVER_INFERENCE_CONTEXT_H_
#define TESSERA_SERVER_INFERENCE_CONTEXT_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/monotonic_clock.h"
#include "engine/options.h"
#include "server/access/access_control.h"
#include "server/active_requests.h"
#include "server/call_gate.h"
#include "server/call_workers.h"
#include "server/metrics/recorder.h"
#include "server/request_builder.h"
#include "server/served_model.h"
#include "server/stall_watch.h"
#include "server/wait_forecast.h"

namespace tessera {

struct ServiceLimits {
  int64_t max_message_bytes = 4 << 20;
  int32_t max_concurrent_requests = 1024;
  // Output that may wait for one client, what is being written included; a client further behind is
  // evicted.
  int64_t max_stream_buffer_bytes = 256 << 10;
  // How long a client may read nothing of what waits for it.
  absl::Duration stream_stall_timeout = absl::Seconds(60);
};

// Made by the composition root, outlives the gRPC server. Thread-safe.
struct InferenceContext {
  InferenceContext(const ServedModel* served_model, Engine* the_engine,
                   MetricsRecorder* the_metrics, EngineOptions options, ServiceLimits the_limits)
      : model(served_model),
        engine(the_engine),
        metrics(the_metrics),
        engine_options(std::move(options)),
        limits(the_limits),
        builder(served_model, RequestLimits{}),
        active(the_limits.max_concurrent_requests),
        stalls(the_limits.stream_stall_timeout) {}

  // Whether a tenant's generation with this deadline and priority (lower runs first) may join the
  // queue: RESOURCE_EXHAUSTED when it is full, or when it could not be answered in time. Costs
  // nothing that grows with the request.
  absl::Status Admit(absl::Time deadline, int32_t priority, const TenantClaim& tenant);

  // Who may do what it asks for, counted when it may not.
  absl::StatusOr<Caller> Authorize(const Credentials& credentials, Permission wanted) const;

  // A new generation would be refused for want of room.
  bool IsSaturated() const {
    return active.size() >= limits.max_concurrent_requests ||
           engine->stats().num_waiting >= engine_options.scheduler.max_queued_requests;
  }

  const ServedModel* const model;
  Engine* const engine;
  MetricsRecorder* const metrics;
  const EngineOptions engine_options;
  const ServiceLimits limits;
  // nullptr: everybody may do everything. Set before the first call, outlives the last.
  const AccessControl* access = nullptr;
  const RequestBuilder builder;
  ActiveRequests active;
  CallGate gate;
  CallWorkers workers;
  CallWorkers compilers{CallWorkers::kMaxCompiling};
  WaitForecast forecast;
  StallWatch stalls;
  const MonotonicClock clock{};
  const absl::Time start_time = clock.Now();
  // What health pages say: false from the first signal on and after the engine failed. Requests are
  // refused by the gate and by the engine.
  std::atomic<bool> ready{true};
};

}  // namespace tessera

#endif  // TESSERA_SERVER_INFERENCE_CONTEXT_H_
