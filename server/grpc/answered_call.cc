#include "server/grpc/answered_call.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/status_macros.h"
#include "server/grpc/call_metadata.h"
#include "server/grpc/status_mapping.h"

namespace tessera {
namespace {

absl::Status Run(const AnsweredCall& call, const grpc::ByteBuffer& request, Answer& answer) {
  return Guarded([&]() -> absl::Status {
    ASSIGN_OR_RETURN(*call.response, answer(request));
    return absl::OkStatus();
  });
}

// A call with a large request. It ends once: when its work is done, or when the client has gone
// before that has begun.
class LargeCall final : public grpc::ServerUnaryReactor {
 public:
  LargeCall(const AnsweredCall& call, Answer answer)
      : call_(call), request_(*call.request), answer_(std::move(answer)) {}

  void Start() {
    const absl::StatusOr<CallWorkers::Ticket> ticket =
        call_.context->workers.Add([this] { End(Run(call_, request_, answer_)); });
    if (!ticket.ok()) return End(ticket.status());
    absl::MutexLock lock(&mutex_);
    ticket_ = *ticket;
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mutex_);
      if (!ticket_ || !call_.context->workers.Remove(*ticket_)) return;  // it ends by itself
    }
    End(absl::Now() >= absl::FromChrono(call_.call->deadline())
            ? absl::DeadlineExceededError("the call's deadline passed")
            : absl::CancelledError("the client cancelled the call"));
  }

  void OnDone() override { delete this; }

 private:
  void End(const absl::Status& status) {
    call_.context->metrics->CountCall(call_.method, status.code());
    Finish(ToGrpcStatus(status, call_.call));
  }

  const AnsweredCall call_;
  const grpc::ByteBuffer request_;
  Answer answer_;
  absl::Mutex mutex_;
  std::optional<CallWorkers::Ticket> ticket_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerUnaryReactor* StartAnsweredCall(const AnsweredCall& call, Answer answer) {
  const absl::Status allowed =
      call.context->Authorize(CredentialsOf(*call.call), call.permission).status();
  if (allowed.ok() && call.request->Length() > CallWorkers::kSmallCallBytes) {
    auto* const large = new LargeCall(call, std::move(answer));
    large->Start();
    return large;
  }
  const absl::Status status = allowed.ok() ? Run(call, *call.request, answer) : allowed;
  call.context->metrics->CountCall(call.method, status.code());
  grpc::ServerUnaryReactor* const reactor = call.call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status, call.call));
  return reactor;
}

}  // namespace tessera
