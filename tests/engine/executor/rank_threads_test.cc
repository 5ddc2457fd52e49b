// Ranks on threads, on fibers and in two nodes of one process: what they share with each other,
// with the thread that submits and with the one that aborts. Small on purpose: it runs under
// ThreadSanitizer, which tests the rest of the executors once per step of a model already.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/executor/cluster_executor.h"
#include "engine/executor/local_executor.h"
#include "engine/executor/node_worker.h"
#include "engine/executor/sequence_runner.h"
#include "engine/model/model_config.h"
#include "engine/scheduler/scheduler.h"
#include "tests/engine/executor/greedy.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr char kModel[] = "moe";
constexpr int32_t kBlockSize = 16;
constexpr size_t kTokens = 8;
constexpr ExecutorLimits kLimits = {
    .block_size = kBlockSize, .max_num_batched_tokens = 256, .max_model_len = 256};

struct Ranks {
  std::string name;
  std::string backend;
  LayoutOptions layout;
  int32_t threads;  // one: all ranks are fibers of it
};

ModelOptions Options(const Ranks& ranks) {
  return {.model_dir = ReferenceModelDir(kModel),
          .backend = ranks.backend,
          .dtype = DType::kF32,
          .num_threads = ranks.threads,
          .layout = ranks.layout};
}

std::vector<int32_t> Generate(Executor& executor) {
  EXPECT_TRUE(executor.AllocateKv(16).ok());
  return Greedy(executor, kBlockSize, LoadModelGoldens(kModel).front().ids, kTokens);
}

std::vector<int32_t> Expected() {
  std::vector<int32_t> tokens = LoadModelGoldens(kModel).front().greedy;
  tokens.resize(kTokens);
  return tokens;
}

class RankThreadsTest : public testing::TestWithParam<Ranks> {
 protected:
  static std::unique_ptr<Executor> Make() {
    const auto config = LoadModelConfig(ReferenceModelDir(kModel));
    EXPECT_TRUE(config.ok()) << config.status();
    auto executor = CreateLocalExecutor(Options(GetParam()), kLimits, *config, nullptr);
    EXPECT_TRUE(executor.ok()) << executor.status();
    return *std::move(executor);
  }
};

TEST_P(RankThreadsTest, StepsGiveTheTokensOfOneRank) {
  const auto executor = Make();
  EXPECT_EQ(Generate(*executor), Expected());
  EXPECT_TRUE(executor->Shutdown(absl::Now() + absl::Seconds(30)).ok());
}

// The watchdog aborts from a thread of its own, at any moment.
TEST_P(RankThreadsTest, AnotherThreadMayAbort) {
  const auto executor = Make();
  ASSERT_TRUE(executor->AllocateKv(16).ok());
  std::atomic<bool> steps = false;
  std::thread watchdog([&] {
    while (!steps.load()) std::this_thread::yield();
    executor->Abort(absl::DeadlineExceededError("a rank hangs"));
  });
  SequenceRunner runner(*executor, kBlockSize);
  absl::Status end;
  for (int32_t token = 0; end.ok() && token < 200; ++token) {
    end = runner.Append({.token_ids = {token}}).status();
    steps = true;
  }
  watchdog.join();
  EXPECT_FALSE(runner.Append({.token_ids = {0}}).ok());
}

// What the devices still compute uses communicators, weights and buffers of ranks that go.
TEST_P(RankThreadsTest, StepsMayBeLeftUnderWay) {
  const auto executor = Make();
  ASSERT_TRUE(executor->AllocateKv(16).ok());
  auto request = std::make_shared<GenerateRequest>();
  request->prompt_ids.assign(200, 5);
  Scheduler scheduler({.block_size = kBlockSize,
                       .num_blocks = 16,
                       .max_model_len = 256,
                       .vocab_size = LoadModelConfig(ReferenceModelDir(kModel))->vocab_size},
                      BlockHash{});
  scheduler.Add(std::make_unique<Sequence>(SequenceInit{.request = request}, 256));
  for (int32_t i = 0; i < executor->max_steps_under_way(); ++i) {
    executor->Submit({.step_id = static_cast<uint64_t>(i),
                      .groups = {scheduler.Schedule(absl::UnixEpoch()).plan}});
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, RankThreadsTest,
    testing::Values(Ranks{"Threads", "cpu", {.tensor_parallel = 2, .data_parallel = 1}, 4},
                    Ranks{"Fibers", "cpu", {.tensor_parallel = 2, .data_parallel = 1}, 1},
                    Ranks{"Queues", "queued", {.tensor_parallel = 2, .data_parallel = 1}, 2},
                    Ranks{"ExpertsExchanged",
                          "cpu",
                          {.tensor_parallel = 2, .expert_parallel = true, .moe_comm = "alltoall"},
                          2},
                    Ranks{"ExpertsThatMove",
                          "cpu",
                          {.tensor_parallel = 2,
                           .expert_parallel = true,
                           .moe_comm = "alltoall",
                           .expert_rebalance_interval = 2},
                          2}),
    [](const auto& parameters) { return parameters.param.name; });

// A port that is free now.
int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), size), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  close(fd);
  return ntohs(address.sin_port);
}

// Head and worker, over loopback: control streams by gRPC, tensors by Gloo.
class TwoNodesTest : public testing::Test {
 protected:
  TwoNodesTest() : address_(absl::StrCat("127.0.0.1:", FreePort())) {
    access_.key_file = absl::StrCat(testing::TempDir(), "/rank_threads_key_", getpid());
    std::ofstream(access_.key_file) << std::string(64, 'a');
    access_.software_version = "test";
    access_.join_timeout = absl::Seconds(60);
    access_.heartbeat_interval = absl::Milliseconds(200);
    access_.log = [](std::string_view) {};
    worker_ = std::thread([this] {
      worker_end_ = RunNodeWorker({.model_dir = ReferenceModelDir(kModel),
                                   .head_address = address_,
                                   .num_threads = 1,
                                   .access = access_});
    });
    const auto config = LoadModelConfig(ReferenceModelDir(kModel));
    const Ranks ranks = {
        .backend = "cpu",
        .layout = {.tensor_parallel = 2, .expert_parallel = true, .moe_comm = "alltoall"},
        .threads = 1};
    auto executor =
        CreateClusterExecutor(Options(ranks), kLimits, *config,
                              {.nodes = 2, .address = address_, .access = access_}, nullptr);
    EXPECT_TRUE(executor.ok()) << executor.status();
    if (executor.ok()) executor_ = *std::move(executor);
  }
  ~TwoNodesTest() override {
    executor_.reset();
    if (worker_.joinable()) worker_.join();
    unlink(access_.key_file.c_str());
  }
  absl::Status WorkerEnd() {
    worker_.join();
    return worker_end_;
  }

  const std::string address_;
  ClusterAccess access_;
  absl::Status worker_end_;
  std::thread worker_;
  std::unique_ptr<Executor> executor_;
};

TEST_F(TwoNodesTest, StepsGiveTheTokensOfOneRank) {
  ASSERT_NE(executor_, nullptr);
  EXPECT_EQ(Generate(*executor_), Expected());
  EXPECT_TRUE(executor_->Shutdown(absl::Now() + absl::Seconds(30)).ok());
  EXPECT_TRUE(WorkerEnd().ok()) << worker_end_;
}

TEST_F(TwoNodesTest, AnAbortEndsBothNodes) {
  ASSERT_NE(executor_, nullptr);
  ASSERT_TRUE(executor_->AllocateKv(16).ok());
  SequenceRunner runner(*executor_, kBlockSize);
  ASSERT_TRUE(runner.Append({.token_ids = {1}}).ok());
  executor_->Abort(absl::DeadlineExceededError("a rank hangs"));
  EXPECT_FALSE(runner.Append({.token_ids = {2}}).ok());
  executor_.reset();
  EXPECT_FALSE(WorkerEnd().ok());
}

}  // namespace
}  // namespace tessera
