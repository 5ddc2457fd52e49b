#include "server/commands/overhead.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "server/commands/model_flags.h"
#include "server/commands/workload.h"
#include "server/grpc/grpc_server.h"
#include "server/inference_context.h"
#include "server/metrics/recorder.h"
#include "server/text_generator.h"

namespace tessera {
namespace {

// Adds up what the executor took; read between requests, when no step runs.
class ExecutionClock {
 public:
  void Add(absl::Duration execution) { nanoseconds_ += absl::ToInt64Nanoseconds(execution); }
  absl::Duration total() const { return absl::Nanoseconds(nanoseconds_.load()); }

 private:
  std::atomic<int64_t> nanoseconds_{0};
};

struct OneRequest {
  absl::Duration latency;
  absl::Duration execution;
};

absl::StatusOr<OneRequest> Ask(TextGenerator* generator, const v1::GenerateRequest& request,
                               const ExecutionClock& clock) {
  const absl::Duration before = clock.total();
  const absl::Time begun = absl::Now();
  RETURN_IF_ERROR(generator->Stream(
      request, [](const v1::GenerateResponse&) {}, nullptr));
  const absl::Duration latency = absl::Now() - begun;
  return OneRequest{.latency = latency, .execution = clock.total() - before};
}

absl::StatusOr<OverheadResult> AskAll(const OverheadOptions& options, int32_t vocab_size,
                                      TextGenerator* generator, const ExecutionClock& clock) {
  constexpr int32_t kWarmUps = 20;
  const Workload single{.input_len = options.input_len, .output_len = 1, .vocab_size = vocab_size};
  const Workload stream{
      .input_len = options.input_len, .output_len = options.output_len, .vocab_size = vocab_size};
  OverheadResult result;
  for (int32_t i = 0; i < options.num_requests + kWarmUps; ++i) {
    ASSIGN_OR_RETURN(const OneRequest one, Ask(generator, WorkloadRequest(single, i), clock));
    if (i < kWarmUps) continue;
    result.per_request.push_back(absl::ToDoubleSeconds(one.latency - one.execution));
    result.steps.push_back(absl::ToDoubleSeconds(one.execution));
  }
  for (int32_t i = 0; i < std::max(1, options.num_requests / 10); ++i) {
    ASSIGN_OR_RETURN(const OneRequest one, Ask(generator, WorkloadRequest(stream, i), clock));
    result.per_token.push_back(absl::ToDoubleSeconds(one.latency - one.execution) /
                               options.output_len);
  }
  return result;
}

}  // namespace

absl::StatusOr<OverheadResult> MeasureOverhead(const OverheadOptions& options) {
  ExecutionClock clock;
  MetricsRecorder metrics;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<ModelRuntime> runtime,
      ModelRuntime::Load(options.runtime, LogLoadProgress(options.runtime.engine.model.model_dir),
                         {.on_step = [&](const StepEvent& step) {
                           clock.Add(step.execution);
                           metrics.ObserveStep(step);
                         }}));
  InferenceContext context(&runtime->model(), &runtime->engine(), &metrics, runtime->options(),
                           ServiceLimits{});
  ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> server,
                   GrpcServer::Start(&context, {.port = 0}));
  ASSIGN_OR_RETURN(const std::unique_ptr<TextGenerator> generator,
                   MakeRemoteGenerator({.address = absl::StrCat("127.0.0.1:", server->port())}));
  return AskAll(options, runtime->model().vocab_size, generator.get(), clock);
}

}  // namespace tessera
