// TextGenerator over gRPC.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "server/text_generator.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

constexpr std::chrono::milliseconds kPollInterval(50);
constexpr std::chrono::seconds kConnectTimeout(10);

absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

// False at the first refusal, or when nothing happens for too long.
bool Connect(grpc::Channel* channel) {
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  while (true) {
    const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) return false;
    if (!channel->WaitForStateChange(state, deadline)) return false;
  }
}

class RemoteGenerator final : public TextGenerator {
 public:
  RemoteGenerator(std::shared_ptr<grpc::Channel> channel, absl::Duration timeout)
      : stub_(v1::Inference::NewStub(std::move(channel))), timeout_(timeout) {}

  absl::Status Stream(const v1::GenerateRequest& request, const OutputHandler& on_output,
                      const std::atomic<bool>* cancelled) override {
    grpc::ClientContext context;
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
  const absl::Duration timeout_;
};

class HealthRemoteProbe final : public RemoteProbe {
 public:
  explicit HealthRemoteProbe(std::shared_ptr<grpc::Channel> channel) : stub_(std::move(channel)) {}

  absl::Status Ask() override {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    // A HealthCheckRequest without fields: no bytes, and a question about the whole server.
    const grpc::Slice nothing;
    const auto call = stub_.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                             grpc::ByteBuffer(&nothing, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->Finish(&answer, &status, &answer);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return FromGrpc(status);
  }

 private:
  grpc::GenericStub stub_;
};

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Every layer of a channel is code that a call runs through, cold after a step of the model.
  // Of the optional ones only deadlines are used here.
  arguments.SetInt(GRPC_ARG_MINIMAL_STACK, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_CHANNELZ, 0);
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (Connect(channel.get())) return channel;
  return absl::UnavailableError(absl::StrCat(
      "no server answers at ", address, "; start one with \"tessera serve\" or check the address"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextGenerator>> MakeRemoteGenerator(const RemoteOptions& options) {
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, OpenChannel(options.address));
  return std::make_unique<RemoteGenerator>(std::move(channel), options.timeout);
}

absl::StatusOr<std::unique_ptr<RemoteProbe>> MakeRemoteProbe(const std::string& address) {
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel, OpenChannel(address));
  return std::make_unique<HealthRemoteProbe>(std::move(channel));
}

absl::StatusOr<v1::GetModelInfoResponse> AskModelInfo(const std::string& address) {
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, OpenChannel(address));
  grpc::ClientContext context;
  v1::GetModelInfoResponse response;
  RETURN_IF_ERROR(FromGrpc(v1::Inference::NewStub(channel)->GetModelInfo(&context, {}, &response)));
  return response;
}

}  // namespace tessera
