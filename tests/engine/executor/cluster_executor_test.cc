// A head and a node in one process: what the head refuses before it sends anything.
#include "engine/executor/cluster_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/executor/node_worker.h"
#include "engine/executor/plan_limits.h"
#include "engine/model/model_config.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr ExecutorLimits kLimits{.block_size = 16,
                                 .max_num_batched_tokens = 8,
                                 .max_num_seqs = 2,
                                 .max_model_len = 64,
                                 .step_timeout = absl::Seconds(30)};

// Two groups, one on each node.
class ClusterExecutorTest : public testing::Test {
 protected:
  ClusterExecutorTest() {
    options_.model_dir = TESSERA_NANO_MODEL;
    options_.num_threads = 1;
    options_.layout.data_parallel = 2;
    access_.key_file = absl::StrCat(testing::TempDir(), "/cluster_executor_test.key");
    std::ofstream(access_.key_file) << "0123456789abcdef";
    access_.software_version = "test";
    access_.join_timeout = absl::Seconds(60);
  }
  ~ClusterExecutorTest() override {
    if (node_.joinable()) node_.join();
  }

  absl::StatusOr<std::unique_ptr<Executor>> Create(const ExecutorLimits& limits) {
    HeadOptions head{.address = "127.0.0.1:0", .access = access_};
    head.access.log = [this](std::string_view line) { StartNode(line); };
    return CreateClusterExecutor(options_, limits, config_, head, nullptr);
  }
  // The node joins as soon as the head says where.
  void StartNode(std::string_view line) {
    constexpr std::string_view kWaiting = "waiting for 1 nodes at ";
    if (line.substr(0, kWaiting.size()) != kWaiting) return;
    node_ = std::thread([this, address = std::string(line.substr(kWaiting.size()))] {
      node_status_ = RunNodeWorker({.model_dir = options_.model_dir,
                                    .head_address = address,
                                    .num_threads = 1,
                                    .access = access_});
    });
  }

  const ModelConfig config_ = *LoadModelConfig(TESSERA_NANO_MODEL);
  ModelOptions options_;
  ClusterAccess access_;
  std::thread node_;
  absl::Status node_status_;
};

TEST_F(ClusterExecutorTest, DoesNotSendAPlanThatNoMessageHolds) {
  const auto executor = Create(kLimits);
  ASSERT_TRUE(executor.ok()) << executor.status();
  ASSERT_TRUE((*executor)->AllocateKv(8).ok());
  const PlanLimits limits{.num_groups = 2,
                          .vocab_size = config_.vocab_size,
                          .block_size = kLimits.block_size,
                          .max_tokens = kLimits.max_num_batched_tokens,
                          .max_num_seqs = kLimits.max_num_seqs,
                          .max_positions = kLimits.max_model_len};
  StepPlan plan{.step_id = 5, .groups = std::vector<BatchPlan>(2)};
  plan.groups[0].sampling.adj_tokens.resize(LargestStepPlanBytes(limits) / 4);
  (*executor)->Submit(std::move(plan));
  const auto result = (*executor)->Wait();
  EXPECT_THAT(std::string(result.status().message()),
              AllOf(HasSubstr("the plan of step 5 has"), HasSubstr("it was not sent"),
                    HasSubstr(absl::StrCat("at most ", LargestStepPlanBytes(limits)))));
  // The node hears the reason instead of finding a broken stream.
  node_.join();
  EXPECT_THAT(std::string(node_status_.message()), HasSubstr("the plan of step 5 has"));
}

TEST_F(ClusterExecutorTest, DoesNotStartWithLimitsThatNoMessageHolds) {
  ExecutorLimits limits = kLimits;
  limits.max_num_batched_tokens = limits.max_num_seqs = 1 << 16;
  const auto executor = Create(limits);
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(executor.status().message()),
              AllOf(HasSubstr("the plan of a step can have"), HasSubstr("--max-num-seqs (65536)")));
  EXPECT_FALSE(node_.joinable()) << "it waited for nodes";
}

}  // namespace
}  // namespace tessera
