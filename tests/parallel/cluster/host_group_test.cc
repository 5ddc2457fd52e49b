// Heads and nodes in one process, over loopback.
#include "parallel/cluster/host_group.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/cluster/control_stream.h"
#include "parallel/cluster/handshake.h"
#include "parallel/cluster/node_link.h"
#include "tessera/v1/cluster.grpc.pb.h"

namespace tessera {
namespace {

using testing::Each;
using testing::HasSubstr;
using v1::cluster::Frame;

constexpr char kKey[] = "0123456789abcdef0123456789abcdef";

constexpr absl::Duration kLong = absl::Seconds(20);

absl::Time Soon() { return absl::Now() + kLong; }

ModelIdentity Model() {
  return {.software_version = "1.2.3", .config_hash = "config", .model_hash = "model"};
}

class Lines {
 public:
  void Add(std::string_view line) {
    absl::MutexLock lock(&mutex_);
    lines_.emplace_back(line);
  }
  std::vector<std::string> all() const {
    absl::MutexLock lock(&mutex_);
    return lines_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::string> lines_;
};

class HostGroupTest : public testing::Test {
 protected:
  void Listen(int32_t nodes, ControlStreamOptions stream = {}) {
    auto group = HostGroup::Listen({.address = "lo:0",
                                    .key = kKey,
                                    .tls = {},
                                    .size = {.num_nodes = nodes, .world_size = 2 * nodes},
                                    .model = Model(),
                                    .engine_options = "engine options",
                                    .stream = stream,
                                    .log = [this](std::string_view line) { log_.Add(line); },
                                    .on_failure =
                                        [this](const absl::Status& reason) {
                                          failure_ = reason;
                                          failed_.Notify();
                                        }});
    ASSERT_TRUE(group.ok()) << group.status();
    group_ = *std::move(group);
  }

  NodeLinkOptions NodeOptions(const std::string& name) const {
    return {.head_address = group_->address(),
            .key = kKey,
            .tls = {},
            .node_name = name,
            .node_index = -1,
            .model = Model(),
            .stream = {},
            .on_failure = nullptr};
  }

  std::unique_ptr<NodeLink> Join(const NodeLinkOptions& options) {
    auto link = NodeLink::Join(options, Soon());
    EXPECT_TRUE(link.ok()) << link.status();
    return link.ok() ? *std::move(link) : nullptr;
  }

  absl::Status Refusal(const NodeLinkOptions& options) const {
    return NodeLink::Join(options, Soon()).status();
  }

  Lines log_;
  absl::Status failure_;
  absl::Notification failed_;
  std::unique_ptr<HostGroup> group_;
};

TEST_F(HostGroupTest, CommandsReachAllNodesInOrderAndAnswersComeBack) {
  Listen(3);
  const auto first = Join(NodeOptions("a"));
  const auto second = Join(NodeOptions("b"));
  ASSERT_TRUE(group_->WaitForNodes(Soon()).ok());
  EXPECT_EQ(first->place().node_index, 1);
  EXPECT_EQ(second->place().node_index, 2);
  EXPECT_EQ(second->place().first_rank, 4);
  EXPECT_EQ(second->place().num_ranks, 2);
  EXPECT_EQ(second->place().engine_options, "engine options");

  const std::string plan(5 << 20, 'p');  // several frames
  const uint64_t load = group_->Broadcast({.kind = NodeCommand::Kind::kLoad});
  const uint64_t kv = group_->Broadcast({.kind = NodeCommand::Kind::kAllocateKv, .num_blocks = 7});
  const uint64_t step =
      group_->Broadcast({.kind = NodeCommand::Kind::kStep, .num_blocks = 0, .step_plan = plan});
  for (NodeLink* node : {first.get(), second.get()}) {
    auto command = node->Next();
    ASSERT_TRUE(command.ok()) << command.status();
    EXPECT_EQ((*command)->command.kind, NodeCommand::Kind::kLoad);
    node->ReportLoadProgress(0.5);
    node->Reply((*command)->id, absl::StrCat("loaded ", node->place().node_index));
    command = node->Next();
    EXPECT_EQ((*command)->command.num_blocks, 7);
    node->Reply((*command)->id, absl::ResourceExhaustedError("no memory"));
    command = node->Next();
    EXPECT_TRUE((*command)->command.step_plan == plan);
    node->Reply((*command)->id, plan);
  }
  EXPECT_THAT(*group_->Gather(load, Soon()), testing::ElementsAre("loaded 1", "loaded 2"));
  EXPECT_EQ(group_->load_progress(), 0.5);
  EXPECT_THAT(group_->Gather(kv, Soon()).status().message(),
              testing::AllOf(HasSubstr("node 1 'a' (ranks 2 to 3)"), HasSubstr("no memory")));
  EXPECT_THAT(*group_->Gather(step, Soon()), Each(plan));
  EXPECT_FALSE(failed_.HasBeenNotified());
}

TEST_F(HostGroupTest, TheStoreIsOneForAll) {
  Listen(3);
  const auto first = Join(NodeOptions("a"));
  const auto second = Join(NodeOptions("b"));
  std::thread waiter([&] { EXPECT_EQ(*second->store().Get("late", kLong), "value"); });
  EXPECT_TRUE(group_->store().Set("head", "h").ok());
  EXPECT_EQ(*first->store().Get("head", kLong), "h");
  EXPECT_TRUE(first->store().Set("late", "value").ok());
  waiter.join();
  EXPECT_EQ(*group_->store().Get("late", kLong), "value");
  EXPECT_FALSE(second->store().Set("late", "other").ok());
  EXPECT_EQ(first->store().Get("never", absl::Milliseconds(50)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(HostGroupTest, WrongNodesAreRefusedByNameAndLoggedOnce) {
  Listen(3);
  NodeLinkOptions wrong_key = NodeOptions("spy");
  wrong_key.key = "not the key of this group";
  NodeLinkOptions wrong_config = NodeOptions("other-config");
  wrong_config.model.config_hash = "x";
  NodeLinkOptions wrong_model = NodeOptions("other-model");
  wrong_model.model.model_hash = "x";
  NodeLinkOptions wrong_version = NodeOptions("old");
  wrong_version.model.software_version = "1.0";
  NodeLinkOptions wrong_place = NodeOptions("greedy");
  wrong_place.node_index = 3;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Refusal(wrong_key).code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(Refusal(wrong_config).message(), HasSubstr("config hash"));
    EXPECT_THAT(Refusal(wrong_model).message(), HasSubstr("model hash"));
    EXPECT_THAT(Refusal(wrong_version).message(), HasSubstr("version 1.0"));
    EXPECT_THAT(Refusal(wrong_place).message(), HasSubstr("wants to be node 3"));
  }
  for (const char* name : {"'other-config'", "'other-model'", "'old'", "'greedy'"}) {
    int lines = 0;
    for (const std::string& line : log_.all()) lines += absl::StrContains(line, name) ? 1 : 0;
    EXPECT_EQ(lines, 1) << name;
  }
  // The group is unharmed.
  const auto first = Join(NodeOptions("a"));
  NodeLinkOptions twin = NodeOptions("twin");
  twin.node_index = 1;
  EXPECT_THAT(Refusal(twin).message(), HasSubstr("but that is node 1 'a'"));
  const auto second = Join(NodeOptions("b"));
  EXPECT_TRUE(group_->WaitForNodes(Soon()).ok());
  EXPECT_THAT(Refusal(NodeOptions("c")).message(), HasSubstr("all 2 places"));
  EXPECT_FALSE(failed_.HasBeenNotified());
}

TEST_F(HostGroupTest, MissingNodesAreCounted) {
  Listen(3);
  const auto first = Join(NodeOptions("a"));
  const absl::Status status = group_->WaitForNodes(absl::Now() + absl::Milliseconds(100));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr("1 of 2 nodes"));
}

TEST_F(HostGroupTest, ALostNodeEndsTheGroupWithinASecond) {
  Listen(3);
  auto first = Join(NodeOptions("a"));
  absl::Notification told;
  NodeLinkOptions options = NodeOptions("b");
  options.on_failure = [&](const absl::Status&) { told.Notify(); };
  const auto second = Join(options);
  ASSERT_TRUE(group_->WaitForNodes(Soon()).ok());
  const uint64_t id = group_->Broadcast({.kind = NodeCommand::Kind::kLoad});
  const absl::Time begin = absl::Now();
  first.reset();
  const absl::Status status = group_->Gather(id, Soon()).status();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("node 1 'a' (ranks 2 to 3) is gone"));
  failed_.WaitForNotification();
  EXPECT_EQ(failure_, status);
  EXPECT_TRUE(told.WaitForNotificationWithTimeout(absl::Seconds(2)));
  EXPECT_THAT(second->Next().status().message(), HasSubstr("node 1 'a'"));
  EXPECT_FALSE(group_->store().Get("x", kLong).ok());
  EXPECT_EQ(NodeLink::Join(NodeOptions("late"), absl::Now() + absl::Seconds(1)).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(HostGroupTest, NodesSeeTheHeadGo) {
  Listen(2);
  const auto node = Join(NodeOptions("a"));
  group_.reset();
  EXPECT_EQ(node->Next().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(node->store().Get("x", kLong).ok());
}

TEST_F(HostGroupTest, ShutdownIsNotAFailure) {
  Listen(2);
  auto node = Join(NodeOptions("a"));
  std::thread worker([&] {
    const auto next = node->Next();
    EXPECT_TRUE(next.ok() && !next->has_value());
    node.reset();
  });
  group_->Shutdown(Soon());
  worker.join();
  EXPECT_FALSE(failed_.HasBeenNotified());
}

TEST_F(HostGroupTest, ANodeThatGivesUpSaysWhy) {
  Listen(2);
  const auto node = Join(NodeOptions("a"));
  node->Fail(absl::DataLossError("the disk is gone"));
  failed_.WaitForNotification();
  EXPECT_THAT(failure_.message(), HasSubstr("the disk is gone"));
}

// A head that welcomes a node, fails the group, goes on sending and hangs up: what a node finds
// that was stopped for a while.
class FailingHead final : public v1::cluster::ClusterControl::Service {
 public:
  FailingHead() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  using Stream = grpc::ServerReaderWriter<Frame, Frame>;
  class Pipe : public FramePipe {
   public:
    Pipe(grpc::ServerContext* context, Stream* stream) : context_(*context), stream_(*stream) {}
    bool Read(Frame* frame) override { return stream_.Read(frame); }
    bool Write(const Frame& frame) override { return stream_.Write(frame); }
    void Cancel() override { context_.TryCancel(); }

   private:
    grpc::ServerContext& context_;
    Stream& stream_;
  };

  grpc::Status Connect(grpc::ServerContext* context, Stream* frames) override {
    Pipe pipe(context, frames);
    ControlStream stream(&pipe, {});
    HeadHandshake handshake(kKey, Model(), {.num_nodes = 2, .world_size = 2});
    stream.Send(*handshake.OnHello(*stream.Receive()));
    EXPECT_TRUE(handshake.OnJoin(*stream.Receive()).ok());
    stream.Authenticate(handshake.keys().head_to_node, handshake.keys().node_to_head);
    v1::cluster::HeadMessage message;
    message.mutable_welcome()->set_num_ranks(1);
    stream.Send(message.SerializeAsString());
    message.mutable_abort()->set_code(static_cast<int>(absl::StatusCode::kInternal));
    stream.Send(message.SerializeAsString());
    message.mutable_command()->set_step_plan(std::string(20'000, 'x'));
    for (int i = 0; i < 3; ++i) stream.Send(message.SerializeAsString());
    stream.Flush(Soon());
    return {grpc::StatusCode::UNAVAILABLE, "the group has failed"};
  }

  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST(NodeLinkTest, LeavesAFailedGroupThoughMessagesAreLeft) {
  const FailingHead head;
  absl::Notification failed;
  auto node = NodeLink::Join({.head_address = head.address(),
                              .key = kKey,
                              .tls = {},
                              .node_name = "a",
                              .node_index = -1,
                              .model = Model(),
                              .stream = {.heartbeat_interval = absl::Milliseconds(20)},
                              .on_failure = [&](const absl::Status&) { failed.Notify(); }},
                             Soon());
  ASSERT_TRUE(node.ok()) << node.status();
  failed.WaitForNotification();
  absl::SleepFor(absl::Milliseconds(300));  // the node notices that it cannot write any more
  absl::Notification left;
  std::thread leaving([&] {
    node->reset();
    left.Notify();
  });
  if (!left.WaitForNotificationWithTimeout(kLong)) {
    std::fprintf(stderr, "the node does not leave\n");
    std::_Exit(1);  // nothing could be cleaned up
  }
  leaving.join();
}

// A client that speaks gRPC but not our protocol.
class Hostile {
 public:
  explicit Hostile(const std::string& address)
      : stub_(v1::cluster::ClusterControl::NewStub(grpc::CreateCustomChannel(
            address, grpc::InsecureChannelCredentials(), OwnConnection()))),
        stream_(stub_->Connect(&context_)) {}
  ~Hostile() {
    if (finished_) return;
    context_.TryCancel();
    stream_->Finish();
  }
  void Send(const Frame& frame) { stream_->Write(frame); }
  // The first thing the head says, or how it hangs up.
  grpc::Status HangUp() {
    Frame frame;
    while (stream_->Read(&frame)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  bool Read(Frame* frame) { return stream_->Read(frame); }

 private:
  static grpc::ChannelArguments OwnConnection() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return arguments;
  }

  grpc::ClientContext context_;
  std::unique_ptr<v1::cluster::ClusterControl::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<Frame, Frame>> stream_;
  bool finished_ = false;
};

Frame MakeFrame(uint64_t sequence, std::string body) {
  Frame frame;
  frame.set_sequence(sequence);
  frame.set_body(std::move(body));
  return frame;
}

TEST_F(HostGroupTest, GarbageIsRefusedAndTheGroupGoesOn) {
  Listen(2, {.handshake_timeout = absl::Milliseconds(300)});
  std::mt19937 random(17);
  for (int i = 0; i < 60; ++i) {
    Hostile client(group_->address());
    std::string body(random() % 200, ' ');
    for (char& c : body) c = static_cast<char>(random());
    if (i == 1) body.assign(5000, 'x');
    if (i == 2) body.assign(3 << 20, 'x');
    client.Send(MakeFrame(i % 3 == 0 ? random() : 0, body));
    EXPECT_FALSE(client.HangUp().ok()) << i;
  }
  // One that says nothing, one that stops in the middle.
  EXPECT_FALSE(Hostile(group_->address()).HangUp().ok());
  Hostile half(group_->address());
  half.Send(MakeFrame(0, NodeHandshake(kKey, Model(), "half", -1).Hello()));
  EXPECT_FALSE(half.HangUp().ok());
  const auto node = Join(NodeOptions("a"));
  EXPECT_TRUE(group_->WaitForNodes(Soon()).ok());
  EXPECT_FALSE(failed_.HasBeenNotified());
}

TEST_F(HostGroupTest, AnAuthenticatedNodeThatSendsGarbageIsNamed) {
  Listen(2);
  Hostile client(group_->address());
  NodeHandshake handshake(kKey, Model(), "mad", -1);
  client.Send(MakeFrame(0, handshake.Hello()));
  Frame challenge;
  ASSERT_TRUE(client.Read(&challenge));
  client.Send(MakeFrame(1, *handshake.OnChallenge(challenge.body())));
  ASSERT_TRUE(group_->WaitForNodes(Soon()).ok());
  client.Send(MakeFrame(2, "no MAC"));
  failed_.WaitForNotification();
  EXPECT_THAT(failure_.message(), testing::AllOf(HasSubstr("'mad'"), HasSubstr("not authentic")));
}

TEST_F(HostGroupTest, ASilentNodeIsDeadAfterTheTimeout) {
  Listen(2, {.heartbeat_timeout = absl::Milliseconds(400)});
  NodeLinkOptions options = NodeOptions("frozen");
  options.stream.heartbeat_interval = absl::Seconds(100);
  options.stream.handshake_timeout = absl::Seconds(400);
  options.stream.heartbeat_timeout = absl::Seconds(400);
  const auto node = Join(options);
  ASSERT_NE(node, nullptr);
  const absl::Time begin = absl::Now();
  failed_.WaitForNotification();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  EXPECT_THAT(failure_.message(), HasSubstr("silent"));
}

TEST_F(HostGroupTest, HeartbeatsKeepAnIdleGroupAlive) {
  const ControlStreamOptions quick{.heartbeat_interval = absl::Milliseconds(100),
                                   .heartbeat_timeout = absl::Seconds(2)};
  Listen(2, quick);
  NodeLinkOptions options = NodeOptions("a");
  options.stream = quick;
  const auto node = Join(options);
  EXPECT_FALSE(failed_.WaitForNotificationWithTimeout(absl::Seconds(3)));
}

TEST_F(HostGroupTest, TooManyStrangersAreTurnedAway) {
  Listen(2, {.handshake_timeout = absl::Minutes(2)});
  std::vector<std::unique_ptr<Hostile>> crowd;
  for (int i = 0; i < 16; ++i) {
    crowd.push_back(std::make_unique<Hostile>(group_->address()));
    crowd.back()->Send(MakeFrame(0, NodeHandshake(kKey, Model(), "stranger", -1).Hello()));
    Frame challenge;
    ASSERT_TRUE(crowd.back()->Read(&challenge)) << i;
  }
  EXPECT_EQ(Hostile(group_->address()).HangUp().error_code(), grpc::RESOURCE_EXHAUSTED);
  crowd.clear();
  EXPECT_NE(Join(NodeOptions("a")), nullptr);
}

TEST(HostGroup, NeverListensEverywhere) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "nonsense", "no-such-interface.invalid:0"}) {
    const auto group = HostGroup::Listen(
        {.address = address, .key = kKey, .size = {.num_nodes = 2, .world_size = 2}});
    EXPECT_FALSE(group.ok()) << address;
  }
}

}  // namespace
}  // namespace tessera
