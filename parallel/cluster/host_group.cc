#include "parallel/cluster/host_group.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/control_stream.h"
#include "parallel/cluster/node_address.h"
#include "parallel/cluster/quiet_libraries.h"
#include "parallel/cluster/store_table.h"
#include "tessera/v1/cluster.grpc.pb.h"

namespace tessera {
namespace {

using v1::cluster::Frame;
using v1::cluster::HeadMessage;
using v1::cluster::NodeMessage;
using ServerStream = grpc::ServerReaderWriter<Frame, Frame>;

constexpr int kMaxStrangers = 16;            // streams at a time that are not (yet) nodes
constexpr size_t kMaxLoggedStrangers = 256;  // different refusals that are logged
constexpr size_t kMaxWaitsPerNode = size_t{1} << 18;

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

void SetStatus(const absl::Status& from, v1::cluster::Status* to) {
  to->set_code(from.raw_code());
  to->set_message(from.message().data(), from.message().size());
}

absl::Status GetStatus(const v1::cluster::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  return {static_cast<absl::StatusCode>(status.code()), status.message()};
}

class ServerPipe : public FramePipe {
 public:
  ServerPipe(grpc::ServerContext* context, ServerStream* stream)
      : context_(context), stream_(stream) {}
  bool Read(Frame* frame) override { return stream_->Read(frame); }
  bool Write(const Frame& frame) override { return stream_->Write(frame); }
  void Cancel() override { context_->TryCancel(); }

 private:
  grpc::ServerContext* const context_;
  ServerStream* const stream_;
};

// A node that has joined. The stream lives on the stack of the thread that serves it.
struct Session {
  ControlStream* stream = nullptr;
  std::string name;
  double load_progress = 0;
  size_t waits = 0;  // for rendezvous keys
};

// A command on its way: answers of nodes 1, 2, ….
struct Pending {
  std::vector<std::optional<absl::StatusOr<std::string>>> answers;
};

class HostGroupImpl final : public HostGroup, public v1::cluster::ClusterControl::Service {
 public:
  explicit HostGroupImpl(HostGroupOptions options) : options_(std::move(options)) {}
  ~HostGroupImpl() override;

  absl::Status Start();

  grpc::Status Connect(grpc::ServerContext* context, ServerStream* stream) override;

  const std::string& address() const override { return address_; }
  absl::Status WaitForNodes(absl::Time deadline) override;
  uint64_t Broadcast(const NodeCommand& command) override;
  absl::StatusOr<std::vector<std::string>> Gather(uint64_t id, absl::Time deadline) override;
  double load_progress() const override;
  RendezvousStore& store() override { return store_; }
  void Abort(const absl::Status& reason) override;
  void Shutdown(absl::Time deadline) override;

 private:
  int32_t num_others() const { return options_.size.num_nodes - 1; }
  std::string NodeName(int32_t index) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<int32_t> Admit(ControlStream* stream, HeadHandshake* handshake);
  absl::StatusOr<int32_t> TakePlace(int32_t wanted, const std::string& name, ControlStream* stream);
  absl::Status Converse(int32_t index, ControlStream* stream);
  absl::Status Handle(int32_t index, const NodeMessage& message);
  void StopAsked(int32_t index);
  void HandleReply(int32_t index, const v1::cluster::Reply& reply);
  void HandleStore(int32_t index, const v1::cluster::StoreRequest& request);
  void AnswerStore(int32_t index, uint64_t id, const absl::StatusOr<std::string>& value);
  void Leave(int32_t index, const absl::Status& reason);
  void SendTo(int32_t index, const HeadMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendToAll(const HeadMessage& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LogOnce(const std::string& line);

  const HostGroupOptions options_;
  std::string address_;
  StoreTable store_;
  mutable absl::Mutex mutex_;
  std::map<int32_t, Session> sessions_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Pending> pending_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> logged_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

absl::Status HostGroupImpl::Start() {
  SilenceLibraries();
  ASSIGN_OR_RETURN(HostPort listen, ParseHostPort(options_.address));
  ASSIGN_OR_RETURN(listen.host, ResolveBindHost(listen.host));
  ASSIGN_OR_RETURN(const auto credentials, HeadCredentials(options_.tls));
  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("cluster");
  quota.SetMaxThreads(num_others() + kMaxStrangers + 8);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxFrameBody) + 4096);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 4);
  int port = 0;
  builder.AddListeningPort(listen.ToString(), credentials, &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", listen.ToString(), " for the nodes of the group"));
  }
  listen.port = port;
  address_ = listen.ToString();
  return absl::OkStatus();
}

HostGroupImpl::~HostGroupImpl() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    for (auto& [index, session] : sessions_) {
      session.stream->Break(absl::CancelledError("the head has ended"));
    }
  }
  store_.Fail(absl::CancelledError("the head has ended"));
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
}

std::string HostGroupImpl::NodeName(int32_t index) const {
  const auto found = sessions_.find(index);
  const int32_t ranks = options_.size.world_size / options_.size.num_nodes;
  return absl::StrCat("node ", index, " '", found == sessions_.end() ? "?" : found->second.name,
                      "' (ranks ", index * ranks, " to ", (index + 1) * ranks - 1, ")");
}

void HostGroupImpl::LogOnce(const std::string& line) {
  bool last = false;
  {
    absl::MutexLock lock(&mutex_);
    if (logged_.size() >= kMaxLoggedStrangers || !logged_.insert(line).second) return;
    last = logged_.size() == kMaxLoggedStrangers;
  }
  if (!options_.log) return;
  options_.log(line);
  if (last) options_.log("no more refusals will be logged: there were too many different ones");
}

grpc::Status HostGroupImpl::Connect(grpc::ServerContext* context, ServerStream* grpc_stream) {
  {
    absl::MutexLock lock(&mutex_);
    const auto strangers = streams_ - static_cast<int>(sessions_.size());
    if (strangers >= kMaxStrangers) return {grpc::RESOURCE_EXHAUSTED, "too many strangers"};
    ++streams_;
  }
  ServerPipe pipe(context, grpc_stream);
  absl::Status end;
  {
    ControlStream stream(&pipe, options_.stream);
    HeadHandshake handshake(options_.key, options_.model, options_.size);
    const absl::StatusOr<int32_t> index = Admit(&stream, &handshake);
    if (index.ok()) {
      end = Converse(*index, &stream);
      Leave(*index, end);
    } else {
      end = index.status();
      // The port changes with every attempt; the host does not.
      const std::string peer = context->peer().substr(0, context->peer().rfind(':'));
      LogOnce(absl::StrCat("refused node '", handshake.node_name(), "' at ", peer, ": ",
                           end.message()));
    }
  }
  absl::MutexLock lock(&mutex_);
  --streams_;
  return ToGrpc(end);
}

absl::StatusOr<int32_t> HostGroupImpl::Admit(ControlStream* stream, HeadHandshake* handshake) {
  ASSIGN_OR_RETURN(const std::string hello, stream->Receive());
  ASSIGN_OR_RETURN(const std::string challenge, handshake->OnHello(hello));
  stream->Send(challenge);
  ASSIGN_OR_RETURN(const std::string join, stream->Receive());
  ASSIGN_OR_RETURN(const int32_t wanted, handshake->OnJoin(join));
  StreamKeys keys = handshake->keys();
  stream->Authenticate(std::move(keys.head_to_node), std::move(keys.node_to_head));
  return TakePlace(wanted, handshake->node_name(), stream);
}

absl::StatusOr<int32_t> HostGroupImpl::TakePlace(int32_t wanted, const std::string& name,
                                                 ControlStream* stream) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(failed_);
  if (ending_) return absl::UnavailableError("the group is ending");
  int32_t index = wanted;
  if (wanted == -1) {
    for (index = 1; sessions_.contains(index);) ++index;
  }
  if (index < 1 || index > num_others()) {
    return absl::FailedPreconditionError(
        wanted == -1 ? absl::StrCat("all ", num_others(), " places of the group are taken")
                     : absl::StrCat("it wants to be node ", wanted, " of a group with nodes 1 to ",
                                    num_others()));
  }
  if (sessions_.contains(index)) {
    return absl::FailedPreconditionError(
        absl::StrCat("it wants to be node ", index, ", but that is ", NodeName(index)));
  }
  sessions_[index] = {.stream = stream, .name = name};
  const int32_t ranks = options_.size.world_size / options_.size.num_nodes;
  HeadMessage message;
  message.mutable_welcome()->set_node_index(index);
  message.mutable_welcome()->set_first_rank(index * ranks);
  message.mutable_welcome()->set_num_ranks(ranks);
  message.mutable_welcome()->set_engine_options(options_.engine_options);
  SendTo(index, message);
  return index;
}

absl::Status HostGroupImpl::Converse(int32_t index, ControlStream* stream) {
  NodeMessage message;
  while (true) {
    ASSIGN_OR_RETURN(const std::string bytes, stream->Receive());
    if (!message.ParseFromString(bytes)) {
      return absl::InvalidArgumentError("it sent a message that cannot be read");
    }
    RETURN_IF_ERROR(Handle(index, message));
  }
}

absl::Status HostGroupImpl::Handle(int32_t index, const NodeMessage& message) {
  switch (message.kind_case()) {
    case NodeMessage::kReply:
      HandleReply(index, message.reply());
      return absl::OkStatus();
    case NodeMessage::kStoreRequest:
      HandleStore(index, message.store_request());
      return absl::OkStatus();
    case NodeMessage::kLoadProgress: {
      absl::MutexLock lock(&mutex_);
      const auto share = static_cast<double>(message.load_progress());
      if (share >= 0 && share <= 1) sessions_[index].load_progress = share;
      return absl::OkStatus();
    }
    case NodeMessage::kFailed: {
      const absl::Status reason = GetStatus(message.failed());
      return absl::UnavailableError(absl::StrCat("it gave up: ", reason.message()));
    }
    case NodeMessage::kStopping:
      StopAsked(index);
      return absl::OkStatus();
    case NodeMessage::KIND_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("it sent a message of an unknown kind");
}

void HostGroupImpl::StopAsked(int32_t index) {
  std::string name;
  {
    absl::MutexLock lock(&mutex_);
    name = NodeName(index);
  }
  if (options_.log) options_.log(absl::StrCat(name, " was asked to stop"));
  if (options_.on_stop_asked) options_.on_stop_asked();
}

void HostGroupImpl::HandleReply(int32_t index, const v1::cluster::Reply& reply) {
  {
    absl::MutexLock lock(&mutex_);
    const auto found = pending_.find(reply.id());
    if (found != pending_.end() && !found->second.answers[index - 1].has_value()) {
      const absl::Status status = GetStatus(reply.status());
      if (status.ok()) {
        found->second.answers[index - 1] = reply.payload();
      } else {
        found->second.answers[index - 1] =
            absl::Status(status.code(), absl::StrCat(NodeName(index), ": ", status.message()));
      }
      return;
    }
  }
  // Nobody waits any more, or it answered twice: harmless.
  LogOnce(absl::StrCat("node ", index, " answered something that nobody asked"));
}

void HostGroupImpl::HandleStore(int32_t index, const v1::cluster::StoreRequest& request) {
  const uint64_t id = request.id();
  if (request.has_value()) {
    const absl::Status status = store_.Set(request.key(), request.value());
    AnswerStore(index, id, status.ok() ? absl::StatusOr<std::string>("") : status);
    return;
  }
  bool refused = false;
  {
    absl::MutexLock lock(&mutex_);
    refused = ++sessions_[index].waits > kMaxWaitsPerNode;
  }
  if (refused) {
    AnswerStore(index, id, absl::ResourceExhaustedError("too many rendezvous requests"));
    return;
  }
  store_.Await(request.key(), [this, index, id](const absl::StatusOr<std::string>& value) {
    AnswerStore(index, id, value);
  });
}

void HostGroupImpl::AnswerStore(int32_t index, uint64_t id,
                                const absl::StatusOr<std::string>& value) {
  HeadMessage message;
  message.mutable_store_reply()->set_id(id);
  SetStatus(value.status(), message.mutable_store_reply()->mutable_status());
  if (value.ok()) message.mutable_store_reply()->set_value(*value);
  absl::MutexLock lock(&mutex_);
  SendTo(index, message);
}

void HostGroupImpl::Leave(int32_t index, const absl::Status& reason) {
  std::string name;
  {
    absl::MutexLock lock(&mutex_);
    name = NodeName(index);
    sessions_.erase(index);
    if (ending_ || !failed_.ok()) return;
  }
  Abort(absl::UnavailableError(absl::StrCat(name, " is gone: ", reason.message())));
}

void HostGroupImpl::SendTo(int32_t index, const HeadMessage& message) {
  const auto found = sessions_.find(index);
  if (found != sessions_.end()) found->second.stream->Send(message.SerializeAsString());
}

void HostGroupImpl::SendToAll(const HeadMessage& message) {
  const std::string bytes = message.SerializeAsString();
  for (auto& [index, session] : sessions_) session.stream->Send(bytes);
}

absl::Status HostGroupImpl::WaitForNodes(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto complete = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !failed_.ok() || static_cast<int32_t>(sessions_.size()) == num_others();
  };
  if (!AwaitUntil(&mutex_, absl::Condition(&complete), deadline)) {
    return absl::DeadlineExceededError(
        absl::StrCat(num_others() - static_cast<int32_t>(sessions_.size()), " of ", num_others(),
                     " nodes have not joined at ", address_, " in time"));
  }
  return failed_;
}

uint64_t HostGroupImpl::Broadcast(const NodeCommand& command) {
  HeadMessage message;
  v1::cluster::Command* wire = message.mutable_command();
  switch (command.kind) {
    case NodeCommand::Kind::kLoad:
      wire->mutable_load();
      break;
    case NodeCommand::Kind::kAllocateKv:
      wire->mutable_allocate_kv()->set_num_blocks(command.num_blocks);
      wire->mutable_allocate_kv()->set_trial(command.trial);
      break;
    case NodeCommand::Kind::kStep:
      wire->set_step_plan(command.step_plan);
      break;
  }
  absl::MutexLock lock(&mutex_);
  wire->set_id(++last_id_);
  pending_[last_id_].answers.resize(num_others());
  SendToAll(message);
  return last_id_;
}

absl::StatusOr<std::vector<std::string>> HostGroupImpl::Gather(uint64_t id, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  const auto found = pending_.find(id);
  if (found == pending_.end()) return absl::InvalidArgumentError("no such command");
  const std::vector<std::optional<absl::StatusOr<std::string>>>& answers = found->second.answers;
  const auto complete = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !failed_.ok() ||
           std::all_of(answers.begin(), answers.end(), [](const auto& a) { return a.has_value(); });
  };
  const bool in_time = AwaitUntil(&mutex_, absl::Condition(&complete), deadline);
  const Pending done = std::move(pending_.extract(found).mapped());
  RETURN_IF_ERROR(failed_);
  std::vector<std::string> payloads;
  for (int32_t i = 0; i < num_others(); ++i) {
    if (!in_time && !done.answers[i].has_value()) {
      return absl::DeadlineExceededError(absl::StrCat(NodeName(i + 1), " did not answer in time"));
    }
    ASSIGN_OR_RETURN(std::string payload, *done.answers[i]);
    payloads.push_back(std::move(payload));
  }
  return payloads;
}

double HostGroupImpl::load_progress() const {
  absl::MutexLock lock(&mutex_);
  double slowest = static_cast<int32_t>(sessions_.size()) == num_others() ? 1 : 0;
  for (const auto& [index, session] : sessions_) slowest = std::min(slowest, session.load_progress);
  return slowest;
}

void HostGroupImpl::Abort(const absl::Status& reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (!failed_.ok() || ending_) return;
    failed_ = reason;
    HeadMessage message;
    SetStatus(reason, message.mutable_abort());
    SendToAll(message);
  }
  store_.Fail(reason);
  if (options_.on_failure) options_.on_failure(reason);
}

void HostGroupImpl::Shutdown(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  if (!ending_ && failed_.ok()) {
    HeadMessage message;
    message.mutable_shutdown();
    SendToAll(message);
  }
  ending_ = true;
  // Nodes close their streams when they have read the message.
  const auto gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return sessions_.empty(); };
  AwaitUntil(&mutex_, absl::Condition(&gone), deadline);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostGroup>> HostGroup::Listen(HostGroupOptions options) {
  const GroupSize size = options.size;
  if (size.num_nodes < 1 || size.world_size < size.num_nodes ||
      size.world_size % size.num_nodes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(size.num_nodes, " nodes cannot share ", size.world_size, " ranks evenly"));
  }
  auto group = std::make_unique<HostGroupImpl>(std::move(options));
  RETURN_IF_ERROR(group->Start());
  return group;
}

}  // namespace tessera
