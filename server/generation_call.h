// One Generate or StreamGenerate call between the service and the engine, without gRPC: submits,
// collects output, measures, ends. The reactors derive from it.
#ifndef TESSERA_SERVER_GENERATION_CALL_H_
#define TESSERA_SERVER_GENERATION_CALL_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/types.h"
#include "server/inference_context.h"
#include "server/response_accumulator.h"
#include "server/trace_context.h"

namespace tessera {

// Lives until both gRPC and the engine have let go of it. Engine callbacks, gRPC callbacks and the
// submitting thread may run at the same time; mutex_ orders them.
class GenerationCall : public ResponseSink {
 public:
  // Called by the engine.
  void OnTokens(TokenDelta delta) override;
  void OnDone(const absl::Status& status, const FinishInfo& info) override;

 protected:
  GenerationCall(InferenceContext* context, std::string_view method)
      : context_(*context), method_(method), begun_(context->clock.Now()) {
    context_.gate.CallOpened();
  }
  ~GenerationCall() override { context_.gate.CallClosed(); }

  // What the client calls this in its own traces, for the log. Before Submit().
  void SetTraceparent(std::string_view header) { trace_id_ = std::string(TraceIdOf(header)); }
  // Hands the request to the engine; `self` is this object. An error, of the argument too, ends the
  // call.
  void Submit(const absl::StatusOr<v1::GenerateRequest>& request, absl::Time deadline,
              std::shared_ptr<ResponseSink> self);
  // The client has gone. Frees the engine; Advance() follows.
  void CancelledByClient();
  // Ends the call with `status` although the engine still works for it.
  void EndEarly(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts the call; the derived class calls it right before gRPC's Finish, once.
  void RecordEnd(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // DEADLINE_EXCEEDED or CANCELLED, as the client sees it.
  absl::Status ClientGoneStatus() const;

  // Something changed: output_ has grown or end_ is set. Writes or finishes.
  virtual void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  InferenceContext& context_;
  absl::Mutex mutex_;
  ResponseAccumulator output_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // set: nothing comes after output_
  // Choices that go on. At 0 output_ is complete, and end_ follows at once.
  int32_t num_unfinished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;

 private:
  absl::Status TrySubmit(const absl::StatusOr<v1::GenerateRequest>& request, absl::Time deadline,
                         std::shared_ptr<ResponseSink> self);
  void Leave();
  void Measure(const TokenDelta& delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string_view method_;
  int32_t prompt_tokens_ = 0;
  const absl::Time begun_;                        // by the context's clock, for measuring
  const absl::Time arrival_ = absl::Now();        // by the wall clock, as the engine wants it
  absl::Time deadline_ = absl::InfiniteFuture();  // written before the engine sees the call
  std::string trace_id_;  // written before the engine sees the call; may be empty
  std::string name_;      // in ActiveRequests; written before the engine sees the call
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mutex_);
  bool engine_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool admitted_ ABSL_GUARDED_BY(mutex_) = false;
  bool has_output_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<absl::Time> last_token_ ABSL_GUARDED_BY(mutex_);  // by choice
};

}  // namespace tessera

#endif  // TESSERA_SERVER_GENERATION_CALL_H_
