#include "engine/executor/cluster_executor.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/executor/abort_relay.h"
#include "engine/executor/group_messages.h"
#include "engine/executor/model_fingerprint.h"
#include "engine/executor/network_connector.h"
#include "engine/executor/step_plan_codec.h"
#include "engine/executor/weight_digests.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/cluster_key.h"
#include "parallel/cluster/host_group.h"
#include "parallel/cluster/node_address.h"

namespace tessera {
namespace {

constexpr absl::Duration kLoadTimeout = absl::Hours(2);
// A rank's error is often the echo of a lost node, which the control plane names a moment later.
constexpr absl::Duration kEchoTime = absl::Milliseconds(300);

class ClusterExecutor final : public Executor {
 public:
  ClusterExecutor(GroupSettings settings, const ModelConfig& config)
      : settings_(std::move(settings)), limits_(PlanLimitsOf(settings_, config)) {}
  ~ClusterExecutor() override {
    ClusterExecutor::Shutdown(MonotonicNow() + absl::Seconds(10)).IgnoreError();
    relay_.Attach(nullptr);
  }

  absl::Status Assemble(const ModelOptions& options, const HeadOptions& head,
                        const ModelConfig& config);
  absl::Status Load(const LoadProgress& observer);

  MemoryReport memory() const override { return memory_; }
  GroupFacts facts() const override { return ranks_->facts(); }
  int32_t num_groups() const override { return settings_.layout.data_parallel; }
  int32_t max_steps_under_way() const override { return ranks_->max_steps_under_way(); }
  absl::Status AllocateKv(int32_t num_blocks) override { return Allocate(num_blocks, false); }
  absl::Status AllocateTrialKv(int32_t num_blocks) override { return Allocate(num_blocks, true); }
  void Submit(StepPlan plan) override;
  absl::StatusOr<StepResult> Wait() override;
  void Abort(absl::Status reason) override {
    group_->Abort(reason);
    relay_.Abort(reason);
  }
  absl::Status Shutdown(absl::Time deadline) override;

 private:
  absl::Status Allocate(int32_t num_blocks, bool trial);
  // Of the other nodes; their weights must be this node's.
  absl::Status TakeLoadReports(const std::vector<std::string>& reports,
                               const std::vector<uint64_t>& digests);
  // Those of the other nodes, and this one's.
  absl::Status TakeMemoryReports(const std::vector<std::string>& reports);
  // Ends the group; the control plane's reason is the better one.
  absl::Status Fail(const absl::Status& reason);
  absl::StatusOr<StepResult> Merge(NodeStepResult own, const std::vector<std::string>& others);
  absl::Status Place(NodeStepResult part, StepResult* whole, std::vector<bool>* present) const;

  const GroupSettings settings_;
  const PlanLimits limits_;
  std::string model_dir_;
  AbortRelay relay_;
  std::unique_ptr<HostGroup> group_;  // outlives the ranks, which meet through its store
  std::unique_ptr<RankGroup> ranks_;
  MemoryReport memory_;
  std::deque<uint64_t> commands_;  // of the steps under way
  absl::Status refused_;           // a plan that was not sent
};

absl::Status ClusterExecutor::Fail(const absl::Status& reason) {
  const absl::Time until = MonotonicNow() + kEchoTime;
  while (relay_.reason().ok() && absl::IsUnavailable(reason) && MonotonicNow() < until) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  Abort(reason);
  return relay_.reason();
}

absl::Status ClusterExecutor::Assemble(const ModelOptions& options, const HeadOptions& head,
                                       const ModelConfig& config) {
  ASSIGN_OR_RETURN(std::string key, ReadClusterKey(head.access.key_file));
  model_dir_ = options.model_dir;
  ASSIGN_OR_RETURN(ModelFingerprint model, FingerprintModel(model_dir_));
  const LayoutRequest& layout = settings_.layout;
  ASSIGN_OR_RETURN(
      group_,
      HostGroup::Listen({.address = head.address,
                         .key = std::move(key),
                         .tls = head.access.tls,
                         .size = {.num_nodes = layout.nodes,
                                  .world_size = layout.tensor_parallel * layout.data_parallel},
                         .model = {.software_version = head.access.software_version,
                                   .config_hash = std::move(model.config_hash),
                                   .model_hash = std::move(model.model_hash)},
                         .engine_options = EncodeGroupSettings(settings_),
                         .stream = {.heartbeat_interval = head.access.heartbeat_interval,
                                    .heartbeat_timeout = settings_.limits.step_timeout},
                         .log = head.access.log,
                         .on_failure =
                             [this, on_failure = head.on_failure](const absl::Status& reason) {
                               relay_.Abort(reason);
                               if (on_failure) on_failure(reason);
                             },
                         .on_stop_asked = head.on_stop_asked}));
  if (head.access.log) {
    head.access.log(
        absl::StrCat("waiting for ", layout.nodes - 1, " nodes at ", group_->address()));
  }
  RETURN_IF_ERROR(group_->WaitForNodes(MonotonicNow() + head.access.join_timeout));
  ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(group_->address()));
  ranks_ = std::make_unique<RankGroup>(
      RankGroupOptions{.settings = settings_,
                       .model_dir = options.model_dir,
                       .num_threads = options.num_threads,
                       .cpu_isa = options.cpu_isa,
                       .emulated_gpus = options.emulated_gpus,
                       .node = 0,
                       .remote = ConnectOverNetwork({.store = &group_->store(),
                                                     .host = address.host,
                                                     .backend = settings_.backend,
                                                     .timeout = settings_.limits.step_timeout})},
      config);
  relay_.Attach(ranks_.get());
  return absl::OkStatus();
}

absl::Status ClusterExecutor::Load(const LoadProgress& observer) {
  const uint64_t command = group_->Broadcast({.kind = NodeCommand::Kind::kLoad});
  LoadProgress progress;
  if (observer) {
    progress = [this, observer](double share) {
      observer(std::min(share, group_->load_progress()));
    };
  }
  WeightDigests digests = BeginDigests(model_dir_);
  if (absl::Status status = ranks_->Load(progress); !status.ok()) return Fail(status);
  const auto reports = group_->Gather(command, MonotonicNow() + kLoadTimeout);
  if (!reports.ok()) return Fail(reports.status());
  const auto own = digests.get();
  const absl::Status same = own.ok() ? TakeLoadReports(*reports, *own) : own.status();
  if (!same.ok()) return Fail(same);
  if (observer) observer(1.0);
  return absl::OkStatus();
}

absl::Status ClusterExecutor::TakeLoadReports(const std::vector<std::string>& reports,
                                              const std::vector<uint64_t>& digests) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(model_dir_));
  memory_ = ranks_->memory();
  for (size_t i = 0; i < reports.size(); ++i) {
    ASSIGN_OR_RETURN(const LoadReport report, DecodeLoadReport(reports[i]));
    memory_ = LargestRank(memory_, report.memory);
    const absl::Status same = CompareDigests(*checkpoint, digests, report.digests);
    if (same.ok()) continue;
    return absl::Status(same.code(), absl::StrCat("node ", i + 1, ": ", same.message()));
  }
  return absl::OkStatus();
}

absl::Status ClusterExecutor::TakeMemoryReports(const std::vector<std::string>& reports) {
  memory_ = ranks_->memory();
  for (const std::string& report : reports) {
    ASSIGN_OR_RETURN(const MemoryReport memory, DecodeMemoryReport(report));
    memory_ = LargestRank(memory_, memory);
  }
  return absl::OkStatus();
}

absl::Status ClusterExecutor::Allocate(int32_t num_blocks, bool trial) {
  const uint64_t command = group_->Broadcast({.kind = NodeCommand::Kind::kAllocateKv,
                                              .num_blocks = num_blocks,
                                              .trial = trial,
                                              .step_plan = {}});
  const absl::Status status =
      trial ? ranks_->AllocateTrialKv(num_blocks) : ranks_->AllocateKv(num_blocks);
  if (!status.ok()) return Fail(status);
  const auto replies = group_->Gather(command, MonotonicNow() + kLoadTimeout);
  return replies.ok() ? TakeMemoryReports(*replies) : Fail(replies.status());
}

void ClusterExecutor::Submit(StepPlan plan) {
  std::string bytes = EncodeStepPlan(plan);
  if (refused_.ok()) refused_ = CheckStepPlanBytes(plan.step_id, std::ssize(bytes), limits_);
  if (!refused_.ok()) return;
  commands_.push_back(group_->Broadcast(
      {.kind = NodeCommand::Kind::kStep, .num_blocks = 0, .step_plan = std::move(bytes)}));
  ranks_->Submit(std::make_shared<const StepPlan>(std::move(plan)));
}

absl::StatusOr<StepResult> ClusterExecutor::Wait() {
  if (!refused_.ok()) return Fail(refused_);
  if (commands_.empty()) return absl::FailedPreconditionError("no step is under way");
  const uint64_t command = commands_.front();
  commands_.pop_front();
  const absl::Time deadline = MonotonicNow() + settings_.limits.step_timeout;
  absl::StatusOr<NodeStepResult> own = ranks_->Wait();
  if (!own.ok()) return Fail(own.status());
  const auto others = group_->Gather(command, deadline);
  if (!others.ok()) return Fail(others.status());
  absl::StatusOr<StepResult> whole = Merge(*std::move(own), *others);
  if (!whole.ok()) return Fail(whole.status());
  return whole;
}

absl::StatusOr<StepResult> ClusterExecutor::Merge(NodeStepResult own,
                                                  const std::vector<std::string>& others) {
  StepResult whole{.step_id = own.step_id, .expert_loads = std::move(own.expert_loads)};
  whole.groups.resize(limits_.num_groups);
  std::vector<bool> present(limits_.num_groups, false);
  RETURN_IF_ERROR(Place(std::move(own), &whole, &present));
  for (const std::string& bytes : others) {
    ASSIGN_OR_RETURN(NodeStepResult part, DecodeNodeStepResult(bytes, limits_));
    RETURN_IF_ERROR(Place(std::move(part), &whole, &present));
  }
  std::sort(whole.ranks.begin(), whole.ranks.end(),
            [](const RankReport& a, const RankReport& b) { return a.rank < b.rank; });
  bool complete = static_cast<int32_t>(whole.ranks.size()) == limits_.num_ranks;
  for (int32_t i = 0; complete && i < limits_.num_ranks; ++i) complete = whole.ranks[i].rank == i;
  if (!complete) {
    return absl::InternalError(
        absl::StrCat("step ", whole.step_id, ": not exactly one report of every rank"));
  }
  if (std::find(present.begin(), present.end(), false) == present.end()) return whole;
  return absl::InternalError(
      absl::StrCat("step ", whole.step_id, ": no node brought the result of every group"));
}

absl::Status ClusterExecutor::Place(NodeStepResult part, StepResult* whole,
                                    std::vector<bool>* present) const {
  if (part.step_id != whole->step_id) {
    return absl::InternalError(
        absl::StrCat("a node answered step ", part.step_id, " instead of ", whole->step_id));
  }
  whole->ranks.insert(whole->ranks.end(), part.ranks.begin(), part.ranks.end());
  for (size_t i = 0; i < part.group_ids.size(); ++i) {
    const int32_t id = part.group_ids[i];
    if ((*present)[id]) {
      return absl::InternalError(absl::StrCat("two nodes brought the result of group ", id));
    }
    (*present)[id] = true;
    whole->groups[id] = std::move(part.groups[i]);
  }
  return absl::OkStatus();
}

absl::Status ClusterExecutor::Shutdown(absl::Time deadline) {
  if (group_ != nullptr) group_->Shutdown(std::min(deadline, MonotonicNow() + absl::Seconds(2)));
  return ranks_ == nullptr ? absl::OkStatus() : ranks_->Shutdown(deadline);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> CreateClusterExecutor(const ModelOptions& options,
                                                                const ExecutorLimits& limits,
                                                                const ModelConfig& config,
                                                                const HeadOptions& head,
                                                                const LoadProgress& observer) {
  ASSIGN_OR_RETURN(GroupSettings settings, MakeGroupSettings(options, limits, head.nodes, config));
  RETURN_IF_ERROR(CheckPlansFit(PlanLimitsOf(settings, config), kMaxStepPlanBytes));
  auto executor = std::make_unique<ClusterExecutor>(std::move(settings), config);
  RETURN_IF_ERROR(executor->Assemble(options, head, config));
  RETURN_IF_ERROR(executor->Load(observer));
  return executor;
}

}  // namespace tessera
