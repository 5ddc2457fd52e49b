#include "server/grpc/remote_generator.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "server/grpc/client_channel.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

constexpr std::chrono::milliseconds kPollInterval(50);

absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

void Authorize(const std::string& authorization, grpc::ClientContext* context) {
  if (!authorization.empty()) context->AddMetadata("authorization", authorization);
}

class RemoteGenerator final : public TextGenerator {
 public:
  RemoteGenerator(std::shared_ptr<grpc::Channel> channel, std::string authorization,
                  absl::Duration timeout)
      : stub_(v1::Inference::NewStub(std::move(channel))),
        authorization_(std::move(authorization)),
        timeout_(timeout) {}

  absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                      const std::atomic<bool>* cancelled) override {
    grpc::ClientContext context;
    Authorize(authorization_, &context);
    if (timeout_ != absl::InfiniteDuration()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + timeout_));
    }
    grpc::CompletionQueue queue;
    const auto reader = stub_->PrepareAsyncStreamGenerate(&context, request, &queue);
    v1::GenerateResponse message;
    reader->StartCall(&message);
    bool ok = Next(&queue, &context, cancelled);
    while (ok) {
      reader->Read(&message, &message);
      ok = Next(&queue, &context, cancelled);
      if (ok) on_output(message);
    }
    grpc::Status status;
    reader->Finish(&status, &message);
    Next(&queue, &context, cancelled);
    return FromGrpc(status);
  }

 private:
  // The outcome of the one operation that is under way.
  static bool Next(grpc::CompletionQueue* queue, grpc::ClientContext* context,
                   const std::atomic<bool>* cancelled) {
    void* tag = nullptr;
    bool ok = false;
    while (queue->AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kPollInterval) ==
           grpc::CompletionQueue::TIMEOUT) {
      if (cancelled != nullptr && cancelled->load()) context->TryCancel();
    }
    if (cancelled != nullptr && cancelled->load()) context->TryCancel();
    return ok;
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  const std::string authorization_;
  const absl::Duration timeout_;
};

// One unary call over a channel of its own.
template <typename Answer, typename Method>
absl::StatusOr<Answer> AskOnce(const ServerTarget& server, absl::Duration timeout,
                               const Method& method) {
  ASSIGN_OR_RETURN(const std::string authorization, AuthorizationFor(server));
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, OpenClientChannel(server));
  grpc::ClientContext context;
  Authorize(authorization, &context);
  if (timeout != absl::InfiniteDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  Answer answer;
  RETURN_IF_ERROR(FromGrpc(method(v1::Inference::NewStub(channel).get(), &context, &answer)));
  return answer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextGenerator>> MakeRemoteGenerator(const RemoteOptions& options) {
  ASSIGN_OR_RETURN(std::string authorization, AuthorizationFor(options.server));
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, OpenClientChannel(options.server));
  return std::make_unique<RemoteGenerator>(std::move(channel), std::move(authorization),
                                           options.timeout);
}

absl::StatusOr<v1::GetModelInfoResponse> AskModelInfo(const ServerTarget& server) {
  return AskOnce<v1::GetModelInfoResponse>(
      server, absl::InfiniteDuration(), [](auto* stub, grpc::ClientContext* context, auto* answer) {
        return stub->GetModelInfo(context, {}, answer);
      });
}

absl::StatusOr<v1::GetServerInfoResponse> AskServerInfo(const ServerTarget& server,
                                                        absl::Duration timeout) {
  return AskOnce<v1::GetServerInfoResponse>(
      server, timeout, [](auto* stub, grpc::ClientContext* context, auto* answer) {
        return stub->GetServerInfo(context, {}, answer);
      });
}

absl::StatusOr<v1::GetLoadResponse> AskLoad(const ServerTarget& server, absl::Duration timeout) {
  return AskOnce<v1::GetLoadResponse>(server, timeout,
                                      [](auto* stub, grpc::ClientContext* context, auto* answer) {
                                        return stub->GetLoad(context, {}, answer);
                                      });
}

}  // namespace tessera
