// --moe-comm=auto: what it measures, what it chooses, and that the choice holds for all steps.
#include "engine/model/moe_comm_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "kernels/core/status_macros.h"
#include "parallel/inproc/inproc_communicator.h"
#include "tests/engine/executor/workload.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

TEST(MoeCommRule, KindsOfStepsCountAlike) {
  // All-to-all takes a third longer in decode-sized steps and three times as long in the others …
  EXPECT_FALSE(PrefersAllToAll(std::vector<MoeCommCost>{{1, 3, 4}, {64, 3, 4}, {512, 100, 300}}));
  // … or a third of the time: one size of large steps against two of small ones.
  EXPECT_TRUE(PrefersAllToAll(std::vector<MoeCommCost>{{1, 3, 4}, {64, 3, 4}, {512, 300, 100}}));
  // How long a step takes does not matter, only how much is saved: 20 % against 50 %.
  EXPECT_TRUE(PrefersAllToAll(std::vector<MoeCommCost>{{8, 2, 1}, {4096, 8'000, 10'000}}));
  EXPECT_FALSE(PrefersAllToAll(std::vector<MoeCommCost>{{8, 1, 2}, {4096, 10'000, 8'000}}));
}

TEST(MoeCommRule, WithoutLargeStepsDecodeDecides) {
  EXPECT_TRUE(PrefersAllToAll(std::vector<MoeCommCost>{{1, 4, 5}, {8, 4, 2}}));
  EXPECT_FALSE(PrefersAllToAll(std::vector<MoeCommCost>{{1, 2, 4}, {8, 5, 4}}));
}

TEST(MoeCommRule, ATieKeepsAllReduce) {
  EXPECT_FALSE(PrefersAllToAll({}));
  EXPECT_FALSE(PrefersAllToAll(std::vector<MoeCommCost>{{1, 2, 2}, {8, 0, 0}}));
  EXPECT_FALSE(PrefersAllToAll(std::vector<MoeCommCost>{{1, 2, 4}, {8, 4, 2}}));
}

TEST(MoeCommRule, RanksMustHaveTheSameTable) {
  const std::vector<MoeCommCost> same = {{1, 1, 2}, {8, 3, 2}, {1, 1, 2}, {8, 3, 2}};
  EXPECT_TRUE(CheckSameCosts(same, 2).ok());
  std::vector<MoeCommCost> other = same;
  other[3].all_to_all = 4;
  const absl::Status status = CheckSameCosts(other, 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank 1"));
}

// A table exists where rows can travel both ways, and nowhere else.
TEST(MoeCommChoiceTest, AutoMeasuresWhenThereIsAChoice) {
  const auto facts = [](const LayoutOptions& layout) -> absl::StatusOr<GroupFacts> {
    const std::string dir = ReferenceModelDir("moe");
    ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(dir));
    ASSIGN_OR_RETURN(
        const std::unique_ptr<Executor> executor,
        CreateLocalExecutor(
            {.model_dir = dir, .backend = "ref", .dtype = DType::kF32, .layout = layout},
            {.block_size = 16, .max_num_batched_tokens = 256, .max_model_len = 256}, config,
            nullptr));
    return executor->facts();
  };
  const absl::StatusOr<GroupFacts> measured = facts({2, 2, true, "auto"});
  ASSERT_TRUE(measured.ok()) << measured.status();
  EXPECT_EQ(measured->num_ranks, 4);
  ASSERT_EQ(measured->moe_comm.costs.size(), 3U);  // up to the 256 tokens of a step
  for (const MoeCommCost& cost : measured->moe_comm.costs) {
    EXPECT_GT(cost.all_reduce, 0);
    EXPECT_GT(cost.all_to_all, 0);
  }
  EXPECT_EQ(measured->moe_comm.all_to_all, PrefersAllToAll(measured->moe_comm.costs));
  for (const LayoutOptions& layout :
       {LayoutOptions{2, 2, true, "alltoall"}, LayoutOptions{2, 2, true, "allreduce"},
        LayoutOptions{2, 2, false, "auto"}}) {
    const absl::StatusOr<GroupFacts> given = facts(layout);
    ASSERT_TRUE(given.ok()) << given.status();
    EXPECT_TRUE(given->moe_comm.costs.empty());
    EXPECT_EQ(given->moe_comm.all_to_all, layout.moe_comm == "alltoall");
  }
}

// How long the exchanges of a layer take: with one row per rank, and with more.
struct Delays {
  std::array<absl::Duration, 2> all_reduce;
  std::array<absl::Duration, 2> all_to_all;
};

// Shared by all ranks, on while they load.
struct Slowness {
  explicit Slowness(const Delays& wanted) : delays(wanted) {}
  const Delays delays;
  std::atomic<bool> on = true;
};

// A connection that is slow as the test wants it.
class SlowCommunicator final : public Communicator {
 public:
  SlowCommunicator(std::unique_ptr<Communicator> communicator, std::shared_ptr<Slowness> slowness)
      : communicator_(std::move(communicator)), slowness_(std::move(slowness)) {}

  using Communicator::AllGather;
  int rank() const override { return communicator_->rank(); }
  int size() const override { return communicator_->size(); }
  void AllReduce(TensorView data) override { communicator_->AllReduce(data); }
  void AllGather(absl::Span<const AllGatherPart> parts) override {
    communicator_->AllGather(parts);
  }
  void Gather(ConstTensorView in, TensorView out, int root) override {
    communicator_->Gather(in, out, root);
  }
  void ReduceScatter(ConstTensorView in, TensorView out) override {
    Delay(slowness_->delays.all_reduce, out.dim(0));
    communicator_->ReduceScatter(in, out);
  }
  void AllToAll(absl::Span<const AllToAllPart> parts) override {
    DelayAllToAll(parts);
    communicator_->AllToAll(parts);
  }
  void AllToAllV(absl::Span<const AllToAllPart> parts, ConstTensorView send_counts,
                 TensorView recv_counts) override {
    DelayAllToAll(parts);
    communicator_->AllToAllV(parts, send_counts, recv_counts);
  }
  void Broadcast(TensorView data, int root) override { communicator_->Broadcast(data, root); }
  void Barrier() override { communicator_->Barrier(); }
  CollectiveTimes times() const override { return communicator_->times(); }
  void Abort(const absl::Status& reason) override { communicator_->Abort(reason); }
  absl::Status Health() const override { return communicator_->Health(); }

 private:
  // Headers travel on the way there only.
  void DelayAllToAll(absl::Span<const AllToAllPart> parts) {
    if (parts.size() > 1) Delay(slowness_->delays.all_to_all, parts[0].in.dim(0) / size());
  }
  void Delay(const std::array<absl::Duration, 2>& durations, int64_t rows) {
    if (slowness_->on) absl::SleepFor(durations[rows > 1 ? 1 : 0]);
  }

  const std::unique_ptr<Communicator> communicator_;
  const std::shared_ptr<Slowness> slowness_;
};

// Two nodes in one process, so that the test makes their connections.
class TwoNodes final : public Executor {
 public:
  TwoNodes(const GroupSettings& settings, const ModelOptions& options, const ModelConfig& config,
           std::shared_ptr<Slowness> slowness)
      : num_groups_(settings.layout.data_parallel), slowness_(std::move(slowness)) {
    for (int32_t node = 0; node < 2; ++node) {
      nodes_.push_back(std::make_unique<RankGroup>(
          RankGroupOptions{
              .settings = settings,
              .model_dir = options.model_dir,
              .num_threads = 2,
              .cpu_isa = options.cpu_isa,
              .node = node,
              .remote = {.connect = [this](const RemoteGroup& group,
                                           Device* device) { return Connect(group, device); }}},
          config));
    }
  }

  absl::Status Load() {
    absl::Status other;
    std::thread loader([&] { other = nodes_[1]->Load(nullptr); });
    absl::Status own = nodes_[0]->Load(nullptr);
    loader.join();
    slowness_->on = false;
    return own.ok() ? other : own;
  }

  MemoryReport memory() const override { return nodes_[0]->memory(); }
  GroupFacts facts() const override { return nodes_[0]->facts(); }
  int32_t num_groups() const override { return num_groups_; }
  int32_t max_steps_under_way() const override { return nodes_.front()->max_steps_under_way(); }
  absl::Status AllocateKv(int32_t num_blocks) override {
    for (const auto& node : nodes_) RETURN_IF_ERROR(node->AllocateKv(num_blocks));
    return absl::OkStatus();
  }
  void Submit(StepPlan plan) override {
    const auto shared = std::make_shared<const StepPlan>(std::move(plan));
    for (const auto& node : nodes_) node->Submit(shared);
  }
  absl::StatusOr<StepResult> Wait() override {
    StepResult whole;
    whole.groups.resize(num_groups_);
    for (const auto& node : nodes_) {
      ASSIGN_OR_RETURN(NodeStepResult part, node->Wait());
      whole.step_id = part.step_id;
      for (size_t i = 0; i < part.groups.size(); ++i) {
        whole.groups[part.group_ids[i]] = std::move(part.groups[i]);
      }
      whole.ranks.insert(whole.ranks.end(), part.ranks.begin(), part.ranks.end());
    }
    return whole;
  }
  void Abort(absl::Status reason) override {
    for (const auto& node : nodes_) node->Abort(reason);
  }
  absl::Status Shutdown(absl::Time deadline) override {
    for (const auto& node : nodes_) RETURN_IF_ERROR(node->Shutdown(deadline));
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<Communicator> Connect(const RemoteGroup& group, Device* device) {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<InprocGroup>& shared = groups_[group.name];
    if (shared == nullptr) shared = CreateInprocGroup(group.size);
    return std::make_unique<SlowCommunicator>(JoinInprocGroup(shared, group.rank, device),
                                              slowness_);
  }

  const int32_t num_groups_;
  const std::shared_ptr<Slowness> slowness_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<InprocGroup>> groups_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<RankGroup>> nodes_;  // declared last: their ranks use what is above
};

struct MixedCase {
  std::string name;
  std::string backend;
  Delays delays;
  bool all_to_all = false;  // what these delays should make of it
};

void PrintTo(const MixedCase& mixed, std::ostream* out) { *out << mixed.name; }

class MixedTable : public testing::TestWithParam<MixedCase> {};

// Each mode is the quicker one for some steps of the workload; a choice per step would give a
// request other bits when others make its steps larger.
TEST_P(MixedTable, AloneAndInACrowdTheBitsAreTheSame) {
  MoeCommChoice choice;
  const MakeExecutor make =
      [&](const ModelOptions& options, const ExecutorLimits& limits,
          const ModelConfig& config) -> absl::StatusOr<std::unique_ptr<Executor>> {
    ASSIGN_OR_RETURN(const GroupSettings settings, MakeGroupSettings(options, limits, 2, config));
    auto slowness = std::make_shared<Slowness>(GetParam().delays);
    auto nodes = std::make_unique<TwoNodes>(settings, options, config, std::move(slowness));
    RETURN_IF_ERROR(nodes->Load());
    choice = nodes->facts().moe_comm;
    return nodes;
  };
  const auto run = [&](const Load& load) {
    absl::StatusOr<Outcome> outcome = RunWorkload({.model_dir = ReferenceModelDir("moe"),
                                                   .backend = GetParam().backend,
                                                   .dtype = DType::kBF16,
                                                   .layout = {2, 2, true, "auto"}},
                                                  load, make);
    EXPECT_EQ(choice.costs.size(), 2U);  // 1 and 8 of the 48 tokens of a step
    EXPECT_LT(choice.costs.front().all_reduce, choice.costs.front().all_to_all);
    EXPECT_GT(choice.costs.back().all_reduce, choice.costs.back().all_to_all);
    EXPECT_EQ(choice.all_to_all, GetParam().all_to_all);
    return outcome;
  };
  const absl::StatusOr<Outcome> alone = run(kAlone);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const absl::StatusOr<Outcome> crowd = run({});
  ASSERT_TRUE(crowd.ok()) << crowd.status();
  EXPECT_EQ(crowd->tokens(), alone->tokens());
  EXPECT_EQ(crowd->replies, alone->replies) << "log-probabilities differ";
}

constexpr Delays kAllReduceSaves{.all_reduce = {absl::Milliseconds(20), absl::Milliseconds(60)},
                                 .all_to_all = {absl::Milliseconds(80), absl::Milliseconds(40)}};
constexpr Delays kAllToAllSaves{.all_reduce = {absl::Milliseconds(40), absl::Milliseconds(80)},
                                .all_to_all = {absl::Milliseconds(60), absl::Milliseconds(20)}};

INSTANTIATE_TEST_SUITE_P(
    Modes, MixedTable,
    testing::Values(MixedCase{"cpu_allreduce", "cpu", kAllReduceSaves, false},
                    MixedCase{"cpu_alltoall", "cpu", kAllToAllSaves, true},
                    MixedCase{"queued_allreduce", "queued", kAllReduceSaves, false},
                    MixedCase{"queued_alltoall", "queued", kAllToAllSaves, true}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace tessera
