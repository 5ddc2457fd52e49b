// One Generate or StreamGenerate call between the service and the engine, without gRPC: submits,
// collects output, measures, ends. The reactors derive from it.
#ifndef TESSERA_SERVER_GENERATION_CALL_H_
#define TESSERA_SERVER_GENERATION_CALL_H_

#include <cstddef>
#include <cstdint>
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
#include "server/call_workers.h"
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
  ~GenerationCall() override {
    LeaveActive();
    context_.gate.CallClosed();
  }

  // What the client calls this in its own traces, for the log. Before Arrive().
  void SetTraceparent(std::string_view header) { trace_id_ = std::string(TraceIdOf(header)); }
  struct Arrival {
    absl::Time deadline;  // by MonotonicNow()
    absl::StatusOr<Caller> caller;
  };
  // The call counts from now on. False: it is refused, for who calls or for want of room, before
  // anything of its message is read. Once, first.
  bool Arrive(const Arrival& arrival);
  // Reads the request and hands it to the engine, here or, when the message is large, on one of the
  // context's workers; `self` is this object. An error, or what that throws, ends the call.
  void Submit(size_t message_bytes, std::shared_ptr<ResponseSink> self);
  // Ends the call with an error.
  void Refuse(const absl::Status& status);
  // The client has gone. Frees the engine; Advance() follows.
  void CancelledByClient();
  // Ends the call with `status` although the engine still works for it.
  void EndEarly(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts the call, which is no longer an active one; the derived class calls it right before
  // gRPC's Finish, once.
  void RecordEnd(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The end of the call waits for the client to read it: the call is active as long as it does.
  void CountLingering() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // DEADLINE_EXCEEDED or CANCELLED, as the client sees it.
  absl::Status ClientGoneStatus() const;

  // Calls Advance(). What that throws ends the call.
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Something changed: output_ has grown or end_ is set. Writes or finishes; what may throw comes
  // before the change of state that it belongs to.
  virtual void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  // What the request has become, before the engine gets it.
  virtual void OnBuilt(const GenerateRequest& /*built*/) {}
  // The message, on the thread that reads it; once. Frees what it was made of.
  virtual absl::StatusOr<v1::GenerateRequest> TakeRequest() = 0;

  InferenceContext& context_;
  absl::Mutex mutex_;
  ResponseAccumulator output_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);  // set: nothing comes after output_
  // Choices that go on. At 0 output_ is complete, and end_ follows at once.
  int32_t num_unfinished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;

 private:
  // `self` keeps this alive, also when gRPC lets go meanwhile.
  void SubmitNow(const std::shared_ptr<ResponseSink>& self, CallGate::Submission submission,
                 bool on_worker);
  // Takes the submission along where the rest is done elsewhere.
  absl::Status TrySubmit(const std::shared_ptr<ResponseSink>& self,
                         CallGate::Submission* submission, bool on_worker);
  absl::Status TrySubmit(const std::shared_ptr<ResponseSink>& self,
                         const v1::GenerateRequest& request);
  // Does the rest on a thread that may take its time.
  absl::Status Compile(const std::shared_ptr<ResponseSink>& self, v1::GenerateRequest request,
                       CallGate::Submission submission);
  void NoteTicket(CallWorkers* workers, CallWorkers::Ticket ticket);
  // An error tells why the request need not be read any more.
  absl::Status StillWanted();
  absl::Status TryArrive(const Arrival& arrival);
  // RESOURCE_EXHAUSTED when a limit of the tenant is reached.
  absl::Status EnterTenant(const std::shared_ptr<Tenant>& tenant);
  int32_t PriorityOf(const GenerateRequest& request) const;
  void ReleaseName();
  void LeaveActive() ABSL_NO_THREAD_SAFETY_ANALYSIS;  // under mutex_, or in the destructor
  void Measure(const TokenDelta& delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string_view method_;
  const absl::Time begun_;                        // when the call arrived
  absl::Time deadline_ = absl::InfiniteFuture();  // written by Arrive()
  std::string trace_id_;                          // written before Arrive(); may be empty
  std::shared_ptr<Tenant> tenant_;                // written by Arrive(); null without keys
  TenantClaim claim_;                             // of the tenant, written by Arrive()
  std::string name_ ABSL_GUARDED_BY(mutex_);      // in ActiveRequests, once it is there
  int32_t prompt_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  CallWorkers* workers_ ABSL_GUARDED_BY(mutex_) = nullptr;  // that the ticket is of
  std::optional<CallWorkers::Ticket> ticket_ ABSL_GUARDED_BY(mutex_);
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mutex_);
  bool engine_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;
  bool counts_ ABSL_GUARDED_BY(mutex_) = false;        // among the active requests
  bool is_in_tenant_ ABSL_GUARDED_BY(mutex_) = false;  // among those that its tenant has open
  bool has_output_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<absl::Time> last_token_ ABSL_GUARDED_BY(mutex_);  // by choice
};

}  // namespace tessera

#endif  // TESSERA_SERVER_GENERATION_CALL_H_
