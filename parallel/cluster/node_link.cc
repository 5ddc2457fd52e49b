#include "parallel/cluster/node_link.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/control_stream.h"
#include "parallel/cluster/quiet_libraries.h"
#include "tessera/v1/cluster.grpc.pb.h"

namespace tessera {
namespace {

using v1::cluster::ClusterControl;
using v1::cluster::Frame;
using v1::cluster::HeadMessage;
using v1::cluster::NodeMessage;

class ClientPipe : public FramePipe {
 public:
  explicit ClientPipe(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(ClusterControl::NewStub(channel)), stream_(stub_->Connect(&context_)) {}
  bool Read(Frame* frame) override { return stream_->Read(frame); }
  bool Write(const Frame& frame) override { return stream_->Write(frame); }
  void Cancel() override { context_.TryCancel(); }
  // How the head ended the stream. After Read has failed or Cancel, with no Write under way: while
  // messages are left unread it would wait for ever.
  absl::Status Finish() {
    const grpc::Status status = stream_->Finish();
    return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<ClusterControl::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<Frame, Frame>> stream_;
};

std::string DefaultName() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return absl::StrCat(host, ":", getpid());
}

absl::Status GetStatus(const v1::cluster::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.code()), status.message()};
}

class NodeLinkImpl final : public NodeLink, private RendezvousStore {
 public:
  explicit NodeLinkImpl(NodeLinkOptions options) : options_(std::move(options)) {}
  ~NodeLinkImpl() override;

  absl::Status Connect(const std::shared_ptr<grpc::Channel>& channel);

  const NodePlace& place() const override { return place_; }
  void SetHeartbeatTimeout(absl::Duration timeout) override {
    stream_->SetHeartbeatTimeout(timeout);
  }
  absl::StatusOr<std::optional<ReceivedCommand>> Next() override;
  void Reply(uint64_t id, const absl::StatusOr<std::string>& payload) override;
  void ReportLoadProgress(double share) override;
  void AskToStop() override;
  void Fail(const absl::Status& reason) override;
  RendezvousStore& store() override { return *this; }

 private:
  absl::Status Set(const std::string& key, const std::string& value) override;
  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override;
  absl::StatusOr<std::string> AskStore(v1::cluster::StoreRequest request, absl::Duration timeout);
  absl::Status ShakeHands();
  void ReceiveLoop();
  absl::Status Handle(const HeadMessage& message);
  absl::Status HandleCommand(const v1::cluster::Command& command);
  void End(const absl::Status& reason);

  const NodeLinkOptions options_;
  NodePlace place_;
  std::unique_ptr<ClientPipe> pipe_;
  std::unique_ptr<ControlStream> stream_;
  absl::Mutex mutex_;
  std::deque<ReceivedCommand> commands_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::optional<absl::StatusOr<std::string>>> store_answers_
      ABSL_GUARDED_BY(mutex_);
  uint64_t last_store_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_in_order_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::thread receiver_;
};

NodeLinkImpl::~NodeLinkImpl() {
  if (stream_ == nullptr) return;
  stream_->Flush(MonotonicNow() + absl::Seconds(1));
  stream_->Break(absl::CancelledError("the node has left"));
  if (receiver_.joinable()) receiver_.join();
  stream_.reset();
  pipe_->Cancel();  // a stream that was broken already has not
  pipe_->Finish().IgnoreError();
}

absl::Status NodeLinkImpl::Connect(const std::shared_ptr<grpc::Channel>& channel) {
  pipe_ = std::make_unique<ClientPipe>(channel);
  stream_ = std::make_unique<ControlStream>(pipe_.get(), options_.stream);
  absl::Status status = ShakeHands();
  if (status.ok()) {
    receiver_ = std::thread([this] { ReceiveLoop(); });
    return absl::OkStatus();
  }
  // UNAVAILABLE: the head has ended the stream. Otherwise it does not know yet.
  if (!absl::IsUnavailable(status)) pipe_->Cancel();
  stream_.reset();
  const absl::Status reason = pipe_->Finish();
  // The head's own words, unless it was this side that ended the stream.
  return reason.ok() || absl::IsCancelled(reason) ? status : reason;
}

absl::Status NodeLinkImpl::ShakeHands() {
  const std::string name = options_.node_name.empty() ? DefaultName() : options_.node_name;
  NodeHandshake handshake(options_.key, options_.model, name, options_.node_index);
  stream_->Send(handshake.Hello());
  ASSIGN_OR_RETURN(const std::string challenge, stream_->Receive());
  ASSIGN_OR_RETURN(const std::string join, handshake.OnChallenge(challenge));
  stream_->Send(join);
  StreamKeys keys = handshake.keys();
  stream_->Authenticate(std::move(keys.node_to_head), std::move(keys.head_to_node));
  ASSIGN_OR_RETURN(const std::string bytes, stream_->Receive());
  HeadMessage message;
  if (!message.ParseFromString(bytes) || !message.has_welcome()) {
    return absl::InvalidArgumentError("the head did not send a welcome");
  }
  place_ = {.group = handshake.size(),
            .node_index = message.welcome().node_index(),
            .first_rank = message.welcome().first_rank(),
            .num_ranks = message.welcome().num_ranks(),
            .engine_options = message.welcome().engine_options()};
  return absl::OkStatus();
}

void NodeLinkImpl::ReceiveLoop() {
  absl::Status status;
  HeadMessage message;
  while (status.ok()) {
    const absl::StatusOr<std::string> bytes = stream_->Receive();
    if (!bytes.ok()) {
      status = absl::UnavailableError(absl::StrCat("the head is gone: ", bytes.status().message()));
    } else if (!message.ParseFromString(*bytes)) {
      status = absl::InvalidArgumentError("the head sent a message that cannot be read");
    } else {
      status = Handle(message);
    }
  }
  End(status);
}

absl::Status NodeLinkImpl::Handle(const HeadMessage& message) {
  switch (message.kind_case()) {
    case HeadMessage::kCommand:
      return HandleCommand(message.command());
    case HeadMessage::kStoreReply: {
      absl::MutexLock lock(&mutex_);
      const auto found = store_answers_.find(message.store_reply().id());
      if (found == store_answers_.end()) return absl::OkStatus();  // given up
      const absl::Status status = GetStatus(message.store_reply().status());
      found->second = status.ok() ? absl::StatusOr<std::string>(message.store_reply().value())
                                  : absl::StatusOr<std::string>(status);
      return absl::OkStatus();
    }
    case HeadMessage::kAbort: {
      const absl::Status reason = GetStatus(message.abort());
      return absl::UnavailableError(absl::StrCat("the group has failed: ", reason.message()));
    }
    case HeadMessage::kShutdown: {
      absl::MutexLock lock(&mutex_);
      ended_in_order_ = true;
      return absl::CancelledError("the group has ended");
    }
    case HeadMessage::kWelcome:
    case HeadMessage::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("the head sent a message of an unexpected kind");
}

absl::Status NodeLinkImpl::HandleCommand(const v1::cluster::Command& wire) {
  ReceivedCommand received{.id = wire.id(), .command = {}};
  switch (wire.kind_case()) {
    case v1::cluster::Command::kLoad:
      received.command.kind = NodeCommand::Kind::kLoad;
      break;
    case v1::cluster::Command::kAllocateKv:
      received.command.kind = NodeCommand::Kind::kAllocateKv;
      received.command.num_blocks = wire.allocate_kv().num_blocks();
      received.command.trial = wire.allocate_kv().trial();
      break;
    case v1::cluster::Command::kStepPlan:
      received.command.kind = NodeCommand::Kind::kStep;
      received.command.step_plan = wire.step_plan();
      break;
    case v1::cluster::Command::KIND_NOT_SET:
      return absl::InvalidArgumentError("the head sent a command of an unknown kind");
  }
  absl::MutexLock lock(&mutex_);
  commands_.push_back(std::move(received));
  return absl::OkStatus();
}

void NodeLinkImpl::End(const absl::Status& reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (!failed_.ok()) return;
    failed_ = reason;
    if (ended_in_order_) return;
  }
  if (options_.on_failure) options_.on_failure(reason);
}

absl::StatusOr<std::optional<ReceivedCommand>> NodeLinkImpl::Next() {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !failed_.ok() || !commands_.empty();
  };
  mutex_.Await(absl::Condition(&ready));
  if (ended_in_order_) return std::nullopt;
  RETURN_IF_ERROR(failed_);
  std::optional<ReceivedCommand> next = std::move(commands_.front());
  commands_.pop_front();
  return next;
}

void NodeLinkImpl::Reply(uint64_t id, const absl::StatusOr<std::string>& payload) {
  NodeMessage message;
  v1::cluster::Reply* reply = message.mutable_reply();
  reply->set_id(id);
  reply->mutable_status()->set_code(payload.status().raw_code());
  reply->mutable_status()->set_message(std::string(payload.status().message()));
  if (payload.ok()) reply->set_payload(*payload);
  stream_->Send(message.SerializeAsString());
}

void NodeLinkImpl::ReportLoadProgress(double share) {
  NodeMessage message;
  message.set_load_progress(static_cast<float>(share));
  stream_->Send(message.SerializeAsString());
}

void NodeLinkImpl::AskToStop() {
  NodeMessage message;
  message.mutable_stopping();
  stream_->Send(message.SerializeAsString());
}

void NodeLinkImpl::Fail(const absl::Status& reason) {
  NodeMessage message;
  message.mutable_failed()->set_code(reason.raw_code());
  message.mutable_failed()->set_message(std::string(reason.message()));
  stream_->Send(message.SerializeAsString());
}

absl::Status NodeLinkImpl::Set(const std::string& key, const std::string& value) {
  v1::cluster::StoreRequest request;
  request.set_key(key);
  request.set_value(value);
  return AskStore(std::move(request), absl::InfiniteDuration()).status();
}

absl::StatusOr<std::string> NodeLinkImpl::Get(const std::string& key, absl::Duration timeout) {
  v1::cluster::StoreRequest request;
  request.set_key(key);
  return AskStore(std::move(request), timeout);
}

absl::StatusOr<std::string> NodeLinkImpl::AskStore(v1::cluster::StoreRequest request,
                                                   absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const uint64_t id = ++last_store_id_;
  const auto entry = store_answers_.emplace(id, std::nullopt).first;
  request.set_id(id);
  NodeMessage message;
  *message.mutable_store_request() = std::move(request);
  stream_->Send(message.SerializeAsString());
  const auto ready = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !failed_.ok() || entry->second.has_value();
  };
  AwaitFor(&mutex_, absl::Condition(&ready), timeout);
  const std::optional<absl::StatusOr<std::string>> answer = std::move(entry->second);
  store_answers_.erase(entry);
  if (answer.has_value()) return *answer;
  RETURN_IF_ERROR(failed_);
  return absl::DeadlineExceededError(absl::StrCat(
      "no rank has set '", message.store_request().key(), "' in the rendezvous store in time"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<NodeLink>> NodeLink::Join(NodeLinkOptions options,
                                                         absl::Time deadline) {
  SilenceLibraries();
  ASSIGN_OR_RETURN(const auto credentials, NodeCredentials(options.tls));
  absl::Status last = absl::DeadlineExceededError("nobody listens there");
  while (MonotonicNow() < deadline) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetMaxReceiveMessageSize(static_cast<int>(kMaxFrameBody) + 4096);
    const auto channel = grpc::CreateCustomChannel(options.head_address, credentials, arguments);
    const absl::Time attempt = std::min(deadline, MonotonicNow() + absl::Seconds(1));
    // Without a connection the call fails at once and says why there is none.
    channel->WaitForConnected(absl::ToChronoTime(WallTime(attempt)));
    auto link = std::make_unique<NodeLinkImpl>(options);
    last = link->Connect(channel);
    if (last.ok()) return link;
    if (!absl::IsUnavailable(last) && !absl::IsResourceExhausted(last)) break;
    absl::SleepFor(absl::Milliseconds(200));
  }
  return absl::Status(last.code(), absl::StrCat("cannot join the group at ", options.head_address,
                                                ": ", last.message()));
}

}  // namespace tessera
