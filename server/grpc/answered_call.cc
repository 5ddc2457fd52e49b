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

// It ends once: when its work is done, or when the client has gone before that has begun.
class AnsweredCall final : public ReceivedCall {
 public:
  AnsweredCall(const GrpcCall& call, const AnsweredMethod& method, Answer answer)
      : call_(call), method_(method), answer_(std::move(answer)) {}

  void Start(std::shared_ptr<AnsweredCall> self) {
    Hold(std::move(self));
    const absl::Status allowed =
        call_.context->Authorize(CredentialsOf(*call_.call), method_.permission).status();
    if (!allowed.ok()) return End(allowed);
    Receive(call_.intake);
  }

 private:
  void OnMessage(const grpc::ByteBuffer& message) override {
    if (message.Length() <= CallWorkers::kSmallCallBytes) return End(Run(message));
    const absl::StatusOr<CallWorkers::Ticket> ticket =
        call_.context->workers.Add([this, message] { End(Run(message)); });
    if (!ticket.ok()) return End(ticket.status());
    absl::MutexLock lock(&mutex_);
    ticket_ = *ticket;
  }

  void OnNoMessage(const absl::Status& why) override { End(why); }

  void OnClientGone(bool before_message) override {
    {
      absl::MutexLock lock(&mutex_);
      const bool before_work = ticket_ && call_.context->workers.Remove(*ticket_);
      if (!before_message && !before_work) return;  // it ends by itself
    }
    End(absl::Now() >= absl::FromChrono(call_.call->deadline())
            ? absl::DeadlineExceededError("the call's deadline passed")
            : absl::CancelledError("the client cancelled the call"));
  }

  absl::Status Run(const grpc::ByteBuffer& message) {
    return Guarded([&]() -> absl::Status {
      ASSIGN_OR_RETURN(response_, answer_(message));
      return absl::OkStatus();
    });
  }

  void End(const absl::Status& status) {
    call_.context->metrics->CountCall(method_.name, status.code());
    if (status.ok()) {
      return StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
    }
    Finish(ToGrpcStatus(status, call_.call));
  }

  const GrpcCall call_;
  const AnsweredMethod method_;
  Answer answer_;
  grpc::ByteBuffer response_;
  absl::Mutex mutex_;
  std::optional<CallWorkers::Ticket> ticket_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerGenericBidiReactor* StartAnsweredCall(const GrpcCall& call,
                                                  const AnsweredMethod& method, Answer answer) {
  auto reactor = std::make_shared<AnsweredCall>(call, method, std::move(answer));
  AnsweredCall* const raw = reactor.get();
  raw->Start(std::move(reactor));
  return raw;
}

}  // namespace tessera
