#include "server/text_generator.h"

#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "server/model_runtime.h"
#include "server/request_builder.h"
#include "server/response_accumulator.h"

namespace tessera {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(50);

// Collects what the engine says until the caller takes it.
class WaitingSink final : public ResponseSink {
 public:
  explicit WaitingSink(const v1::GenerateRequest& request) {
    output_.Begin(request.request_id(), request);
  }

  void OnTokens(TokenDelta delta) override {
    absl::MutexLock lock(&mutex_);
    output_.Add(std::move(delta));
  }
  void OnDone(const absl::Status& status, const FinishInfo&) override {
    absl::MutexLock lock(&mutex_);
    end_ = status;
  }

  // The next message; nullopt after `kPollInterval` without one, the end status at the end.
  struct Next {
    std::optional<v1::GenerateResponse> message;
    std::optional<absl::Status> end;
  };
  Next Wait() {
    absl::MutexLock lock(&mutex_);
    AwaitFor(&mutex_, absl::Condition(this, &WaitingSink::HasNews), kPollInterval);
    Next next;
    if (!output_.empty()) {
      next.message = output_.Take();
    } else {
      next.end = end_;
    }
    return next;
  }

 private:
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !output_.empty() || end_.has_value();
  }

  absl::Mutex mutex_;
  ResponseAccumulator output_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
};

class LocalGenerator final : public TextGenerator {
 public:
  explicit LocalGenerator(ModelRuntime* runtime)
      : runtime_(*runtime), builder_(&runtime->model(), RequestLimits{}) {}

  absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                      const std::atomic<bool>* cancelled) override {
    ASSIGN_OR_RETURN(GenerateRequest built, builder_.Build(request));
    built.arrival = MonotonicNow();
    const auto sink = std::make_shared<WaitingSink>(request);
    ASSIGN_OR_RETURN(const RequestId id, runtime_.engine().Submit(std::move(built), sink));
    while (true) {
      if (cancelled != nullptr && cancelled->load()) runtime_.engine().Cancel(id);
      const WaitingSink::Next next = sink->Wait();
      if (next.message) on_output(*next.message);
      if (next.end) return *next.end;
    }
  }

 private:
  ModelRuntime& runtime_;
  RequestBuilder builder_;
};

v1::Choice* ChoiceOf(int32_t index, v1::GenerateResponse* total) {
  for (v1::Choice& choice : *total->mutable_choices()) {
    if (choice.index() == index) return &choice;
  }
  v1::Choice* choice = total->add_choices();
  choice->set_index(index);
  return choice;
}

void MergeToolCall(const v1::ToolCall& delta, v1::Choice* choice) {
  for (v1::ToolCall& call : *choice->mutable_tool_calls()) {
    if (call.index() != delta.index()) continue;
    call.mutable_arguments()->append(delta.arguments());
    return;
  }
  *choice->add_tool_calls() = delta;
}

}  // namespace

std::unique_ptr<TextGenerator> MakeLocalGenerator(ModelRuntime* runtime) {
  return std::make_unique<LocalGenerator>(runtime);
}

void MergeOutput(const v1::GenerateResponse& delta, v1::GenerateResponse* total) {
  total->set_request_id(delta.request_id());
  *total->mutable_usage() = delta.usage();
  if (delta.has_thinking()) *total->mutable_thinking() = delta.thinking();
  for (const v1::Choice& from : delta.choices()) {
    v1::Choice* to = ChoiceOf(from.index(), total);
    to->mutable_text()->append(from.text());
    to->mutable_reasoning()->append(from.reasoning());
    for (const v1::ToolCall& call : from.tool_calls()) MergeToolCall(call, to);
    to->mutable_token_ids()->MergeFrom(from.token_ids());
    to->mutable_logprobs()->MergeFrom(from.logprobs());
    to->mutable_prompt_logprobs()->MergeFrom(from.prompt_logprobs());
    to->mutable_reasoning_steps()->MergeFrom(from.reasoning_steps());
    *to->mutable_usage() = from.usage();
    if (from.has_finish()) *to->mutable_finish() = from.finish();
  }
}

absl::StatusOr<v1::GenerateResponse> Generate(TextGenerator& generator,
                                              const v1::GenerateRequest& request) {
  v1::GenerateResponse total;
  RETURN_IF_ERROR(generator.Stream(
      request, [&total](const v1::GenerateResponse& delta) { MergeOutput(delta, &total); },
      nullptr));
  return total;
}

}  // namespace tessera
