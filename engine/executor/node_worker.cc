#include "engine/executor/node_worker.h"

#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engine/executor/abort_relay.h"
#include "engine/executor/group_messages.h"
#include "engine/executor/model_fingerprint.h"
#include "engine/executor/network_connector.h"
#include "engine/executor/rank_group.h"
#include "engine/executor/step_plan_codec.h"
#include "engine/executor/weight_digests.h"
#include "engine/model/model_config.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/cluster_key.h"
#include "parallel/cluster/node_address.h"
#include "parallel/cluster/node_link.h"

namespace tessera {
namespace {

class NodeWorker {
 public:
  NodeWorker(const NodeOptions& options, NodeStop* stop) : options_(options), stop_(*stop) {}
  ~NodeWorker() {
    stop_.Attach(nullptr);
    relay_.Attach(nullptr);
  }

  absl::Status Join();
  absl::Status Run();

 private:
  absl::StatusOr<std::string> RankHost() const;
  absl::StatusOr<std::string> Execute(const NodeCommand& command);
  absl::StatusOr<std::string> Load();
  absl::StatusOr<std::string> AllocateKv(int32_t num_blocks, bool trial);
  // The next command of the head; false when the group has ended in order.
  absl::StatusOr<bool> RunNext();
  // Enqueues a step; AnswerSteps replies when it has ended. The head may send the next one before.
  absl::Status BeginStep(const ReceivedCommand& command);
  // A thread of its own: waits for the steps in their order.
  void AnswerSteps();
  void StopAnswering();

  const NodeOptions& options_;
  NodeStop& stop_;
  AbortRelay relay_;
  std::unique_ptr<NodeLink> link_;  // outlives the ranks, which meet through its store
  PlanLimits limits_;
  bool loaded_ = false;
  std::unique_ptr<RankGroup> ranks_;

  absl::Mutex mutex_;
  std::deque<uint64_t> steps_ ABSL_GUARDED_BY(mutex_);  // ids of the commands under way
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failed_step_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::string> NodeWorker::RankHost() const {
  if (!options_.node_address.empty()) return ResolveBindHost(options_.node_address);
  ASSIGN_OR_RETURN(const HostPort head, ParseHostPort(options_.head_address));
  return LocalAddressTowards(head);
}

absl::Status NodeWorker::Join() {
  ASSIGN_OR_RETURN(std::string key, ReadClusterKey(options_.access.key_file));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options_.model_dir));
  ASSIGN_OR_RETURN(ModelFingerprint model, FingerprintModel(options_.model_dir));
  RETURN_IF_ERROR(ParseHostPort(options_.head_address).status());
  ASSIGN_OR_RETURN(
      link_, NodeLink::Join({.head_address = options_.head_address,
                             .key = std::move(key),
                             .tls = options_.access.tls,
                             .node_name = options_.node_name,
                             .node_index = options_.node_index,
                             .model = {.software_version = options_.access.software_version,
                                       .config_hash = std::move(model.config_hash),
                                       .model_hash = std::move(model.model_hash)},
                             .stream = {.heartbeat_interval = options_.access.heartbeat_interval},
                             .on_failure = [this](const absl::Status& why) { relay_.Abort(why); }},
                            MonotonicNow() + options_.access.join_timeout));
  const NodePlace& place = link_->place();
  ASSIGN_OR_RETURN(const GroupSettings settings, DecodeGroupSettings(place.engine_options, config));
  const LayoutRequest& layout = settings.layout;
  const int32_t ranks = layout.tensor_parallel * layout.data_parallel / layout.nodes;
  if (place.num_ranks != ranks || place.first_rank != place.node_index * ranks ||
      place.node_index < 1 || place.node_index >= layout.nodes) {
    return absl::InvalidArgumentError("the head's welcome contradicts its layout");
  }
  link_->SetHeartbeatTimeout(settings.limits.step_timeout);
  ASSIGN_OR_RETURN(std::string host, RankHost());
  limits_ = PlanLimitsOf(settings, config);
  if (options_.access.log) {
    options_.access.log(absl::StrCat("joined as node ", place.node_index, " of ", layout.nodes,
                                     ": ranks ", place.first_rank, " to ",
                                     place.first_rank + ranks - 1, ", reached at ", host));
  }
  ranks_ = std::make_unique<RankGroup>(
      RankGroupOptions{.settings = settings,
                       .model_dir = options_.model_dir,
                       .num_threads = options_.num_threads,
                       .cpu_isa = options_.cpu_isa,
                       .emulated_gpus = options_.emulated_gpus,
                       .node = place.node_index,
                       .remote = ConnectOverNetwork({.store = &link_->store(),
                                                     .host = std::move(host),
                                                     .backend = settings.backend,
                                                     .timeout = settings.limits.step_timeout})},
      config);
  relay_.Attach(ranks_.get());
  return absl::OkStatus();
}

absl::Status NodeWorker::Run() {
  std::thread answers([this] { AnswerSteps(); });
  absl::StatusOr<bool> goes_on = true;
  while (goes_on.ok() && *goes_on) goes_on = RunNext();
  StopAnswering();
  answers.join();
  const absl::MutexLock lock(&mutex_);
  const absl::Status failure = failed_step_.ok() ? goes_on.status() : failed_step_;
  // What the control plane says went wrong is the better reason.
  return failure.ok() || relay_.reason().ok() ? failure : relay_.reason();
}

absl::StatusOr<bool> NodeWorker::RunNext() {
  ASSIGN_OR_RETURN(const std::optional<ReceivedCommand> next, link_->Next());
  if (!next.has_value()) return false;
  absl::StatusOr<std::string> payload = "";
  if (loaded_ && next->command.kind == NodeCommand::Kind::kStep) {
    const absl::Status begun = BeginStep(*next);
    if (begun.ok()) return true;
    payload = begun;
  } else {
    payload = Execute(next->command);
  }
  link_->Reply(next->id, payload);
  RETURN_IF_ERROR(payload.status());
  return true;
}

absl::Status NodeWorker::BeginStep(const ReceivedCommand& command) {
  ASSIGN_OR_RETURN(StepPlan plan, DecodeStepPlan(command.command.step_plan, limits_));
  ranks_->Submit(std::make_shared<const StepPlan>(std::move(plan)));
  const absl::MutexLock lock(&mutex_);
  steps_.push_back(command.id);
  return absl::OkStatus();
}

void NodeWorker::AnswerSteps() {
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ended_ || !steps_.empty();
  };
  while (true) {
    uint64_t id = 0;
    {
      const absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work));
      if (ended_) return;
      id = steps_.front();
    }
    const absl::StatusOr<NodeStepResult> result = ranks_->Wait();
    const absl::StatusOr<std::string> payload =
        result.ok() ? absl::StatusOr<std::string>(EncodeNodeStepResult(*result)) : result.status();
    {
      const absl::MutexLock lock(&mutex_);
      steps_.pop_front();
      failed_step_.Update(payload.status());
    }
    link_->Reply(id, payload);
    if (!payload.ok()) return;  // the head ends the group
  }
}

// Nobody waits any more for the steps under way.
void NodeWorker::StopAnswering() {
  bool steps_left = false;
  {
    const absl::MutexLock lock(&mutex_);
    ended_ = true;
    steps_left = !steps_.empty() && failed_step_.ok();
  }
  if (steps_left) ranks_->Abort(absl::CancelledError("the group has ended"));
}

absl::StatusOr<std::string> NodeWorker::Execute(const NodeCommand& command) {
  if (loaded_ == (command.kind == NodeCommand::Kind::kLoad)) {
    return absl::FailedPreconditionError("the head sent a command out of order");
  }
  switch (command.kind) {
    case NodeCommand::Kind::kLoad:
      return Load();
    case NodeCommand::Kind::kAllocateKv:
      return AllocateKv(command.num_blocks, command.trial);
    case NodeCommand::Kind::kStep:
      break;  // only after loading, see RunNext
  }
  return absl::InvalidArgumentError("the head sent a command of an unknown kind");
}

absl::StatusOr<std::string> NodeWorker::Load() {
  WeightDigests digests = BeginDigests(options_.model_dir);
  RETURN_IF_ERROR(ranks_->Load([this](double share) { link_->ReportLoadProgress(share); }));
  LoadReport report{.memory = ranks_->memory(), .digests = {}};
  ASSIGN_OR_RETURN(report.digests, digests.get());
  loaded_ = true;
  stop_.Attach(link_.get());
  return EncodeLoadReport(report);
}

absl::StatusOr<std::string> NodeWorker::AllocateKv(int32_t num_blocks, bool trial) {
  if (num_blocks < 1 || num_blocks > std::numeric_limits<int32_t>::max() / limits_.block_size) {
    return absl::InvalidArgumentError(absl::StrCat(num_blocks, " KV blocks cannot be stored"));
  }
  limits_.num_blocks = 0;
  RETURN_IF_ERROR(trial ? ranks_->AllocateTrialKv(num_blocks) : ranks_->AllocateKv(num_blocks));
  limits_.num_blocks = num_blocks;
  return EncodeMemoryReport(ranks_->memory());
}

}  // namespace

bool NodeStop::Ask() {
  absl::MutexLock lock(&mutex_);
  if (link_ == nullptr) return false;
  asked_ = true;
  link_->AskToStop();
  return true;
}

bool NodeStop::asked() const {
  absl::MutexLock lock(&mutex_);
  return asked_;
}

void NodeStop::Attach(NodeLink* link) {
  absl::MutexLock lock(&mutex_);
  link_ = link;
}

absl::Status RunNodeWorker(const NodeOptions& options, NodeStop* stop) {
  NodeStop nobody;
  NodeWorker worker(options, stop == nullptr ? &nobody : stop);
  RETURN_IF_ERROR(worker.Join());
  return worker.Run();
}

}  // namespace tessera
