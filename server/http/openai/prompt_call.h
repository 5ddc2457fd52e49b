// One prompt of an HTTP request on its way through the engine.
#ifndef TESSERA_SERVER_HTTP_OPENAI_PROMPT_CALL_H_
#define TESSERA_SERVER_HTTP_OPENAI_PROMPT_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/generation_call.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

// The engine's threads bring output; whoever answers the client takes it.
class PromptCall final : public GenerationCall {
 public:
  struct Options {
    std::string_view method;  // as it is counted; outlives the call
    Caller caller;
    bool stream = false;  // news are pieces; else they come once, at the end
    // There are news to take. Called on any thread, again only after they were taken, and once more
    // when so much piles up that the client must be given up.
    std::function<void()> on_news;
  };
  PromptCall(InferenceContext* context, v1::GenerateRequest request, Options options);

  // Validates and submits, on this thread; news tell of errors, too.
  void Start(const std::shared_ptr<PromptCall>& self, std::string_view traceparent);

  struct News {
    std::optional<v1::GenerateResponse> output;
    std::optional<absl::Status> end;  // nothing comes after it
  };
  News Take();
  // What waits to be taken is above the limit for one client.
  bool HasTooMuch();
  // The client has gone: nothing is told any more.
  void Cancel() { CancelledByClient(); }
  // Ends the call because its client does not read.
  void Evict();
  // Known with the first output.
  const std::vector<int32_t>& prompt_ids() const { return prompt_ids_; }

 private:
  void OnBuilt(const GenerateRequest& built) override { prompt_ids_ = built.prompt_ids; }
  void Advance() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<v1::GenerateRequest> TakeRequest() override { return std::move(request_); }
  void Finish(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReportBuffer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  v1::GenerateRequest request_;
  std::vector<int32_t> prompt_ids_;  // written before the first output
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_too_much_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t reported_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_PROMPT_CALL_H_
