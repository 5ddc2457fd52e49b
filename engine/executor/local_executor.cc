#include "engine/executor/local_executor.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/checkpoint_check.h"
#include "engine/executor/rank_thread.h"
#include "engine/executor/worker.h"
#include "kernels/ops.h"
#include "parallel/inproc/inproc_communicator.h"
#include "parallel/topology.h"

namespace tessera {
namespace {

int NumCores() { return static_cast<int>(std::max(1U, std::thread::hardware_concurrency())); }

// Every rank gets an equal share of the threads, at least one; ranks poll only when all their
// threads have cores of their own.
OpsOptions RankOpsOptions(const ModelOptions& options, int32_t ranks) {
  const int total = options.num_threads > 0 ? options.num_threads : NumCores();
  const int per_rank = std::max(1, total / ranks);
  return {
      .backend = options.backend, .num_threads = per_rank, .spin = per_rank * ranks <= NumCores()};
}

// The meeting points of all groups of a layout.
class InprocWorld {
 public:
  explicit InprocWorld(const LayoutRequest& layout)
      : tp_size_(layout.tensor_parallel), dp_size_(layout.data_parallel) {
    for (int i = 0; i < dp_size_; ++i) tp_.push_back(CreateInprocGroup(tp_size_));
    for (int i = 0; i < tp_size_; ++i) dp_.push_back(CreateInprocGroup(dp_size_));
    world_ = CreateInprocGroup(tp_size_ * dp_size_);
  }

  RankLinks Join(const Topology& rank, Device* device, MoeComm moe_comm) const {
    RankLinks links;
    links.moe_comm = moe_comm;
    if (tp_size_ > 1) links.tp = JoinInprocGroup(tp_[rank.dp_rank()], rank.tp_rank(), device);
    if (dp_size_ > 1) links.dp = JoinInprocGroup(dp_[rank.tp_rank()], rank.dp_rank(), device);
    if (rank.world_size() > 1) links.world = JoinInprocGroup(world_, rank.rank(), device);
    return links;
  }

 private:
  const int tp_size_;
  const int dp_size_;
  std::vector<std::shared_ptr<InprocGroup>> tp_;
  std::vector<std::shared_ptr<InprocGroup>> dp_;
  std::shared_ptr<InprocGroup> world_;
};

absl::StatusOr<MoeComm> ParseMoeComm(const std::string& name) {
  if (name == "auto") return MoeComm::kAuto;
  if (name == "allreduce") return MoeComm::kAllReduce;
  if (name == "alltoall") return MoeComm::kAllToAll;
  return absl::InvalidArgumentError(
      absl::StrCat("moe-comm is '", name, "'; it can be auto, allreduce or alltoall"));
}

class LocalExecutor : public Executor {
 public:
  LocalExecutor(const LayoutRequest& layout, MoeComm moe_comm)
      : layout_(layout),
        moe_comm_(moe_comm),
        ranks_(layout.tensor_parallel * layout.data_parallel),
        world_(layout) {}

  ~LocalExecutor() override { LocalExecutor::Shutdown(absl::InfiniteFuture()).IgnoreError(); }

  absl::Status Load(const ModelOptions& options, const ExecutorLimits& limits,
                    const ModelConfig& config, Checkpoint& checkpoint,
                    const LoadObserver& observer);

  MemoryReport memory() const override {
    MemoryReport largest;
    for (const auto& worker : workers_) {
      const MemoryReport report = worker->memory();
      largest.weight_bytes = std::max(largest.weight_bytes, report.weight_bytes);
      largest.buffer_bytes = std::max(largest.buffer_bytes, report.buffer_bytes);
      largest.kv_block_bytes = std::max(largest.kv_block_bytes, report.kv_block_bytes);
    }
    return largest;
  }

  int32_t num_groups() const override { return layout_.data_parallel; }

  absl::Status AllocateKv(int32_t num_blocks) override {
    return OnEveryRank([&](int32_t rank) { return workers_[rank]->AllocateKv(num_blocks); });
  }

  void Submit(StepPlan plan) override {
    const auto shared = std::make_shared<const StepPlan>(std::move(plan));
    step_ids_.push_back(shared->step_id);
    for (size_t rank = 0; rank < threads_.size(); ++rank) {
      threads_[rank]->Submit(workers_[rank].get(), shared);
    }
  }

  absl::StatusOr<StepResult> Wait() override;

  void Abort(absl::Status reason) override {
    absl::MutexLock lock(&mutex_);
    if (!aborted_.ok()) return;
    for (const auto& worker : workers_) worker->Abort(reason);
    aborted_ = std::move(reason);
  }

  absl::Status Shutdown(absl::Time) override {
    {
      absl::MutexLock lock(&mutex_);
      if (aborted_.ok()) aborted_ = absl::CancelledError("the executor has been shut down");
    }
    // A worker dies on the thread that used it.
    for (size_t rank = 0; rank < threads_.size(); ++rank) {
      threads_[rank]->Post([this, rank] { workers_[rank].reset(); });
    }
    threads_.clear();
    return absl::OkStatus();
  }

 private:
  // Runs `work` for every rank at the same time, each on its own thread; the first error wins.
  absl::Status OnEveryRank(const std::function<absl::Status(int32_t rank)>& work);
  absl::Status CreateWorker(int32_t rank, const ModelOptions& options,
                            const WorkerOptions& worker_options, const ModelConfig& config,
                            Checkpoint& checkpoint, const LoadProgress& progress);

  const LayoutRequest layout_;
  const MoeComm moe_comm_;
  const int32_t ranks_;
  const InprocWorld world_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<RankThread>> threads_;
  std::deque<uint64_t> step_ids_;
  absl::Mutex mutex_;
  absl::Status aborted_ ABSL_GUARDED_BY(mutex_);
  absl::Status dead_;  // sticky
};

absl::Status LocalExecutor::OnEveryRank(const std::function<absl::Status(int32_t)>& work) {
  std::vector<absl::Status> statuses(ranks_);
  absl::BlockingCounter pending(ranks_);
  for (int32_t rank = 0; rank < ranks_; ++rank) {
    threads_[rank]->Post([&, rank] {
      statuses[rank] = work(rank);
      pending.DecrementCount();
    });
  }
  pending.Wait();
  for (const absl::Status& status : statuses) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

absl::Status LocalExecutor::CreateWorker(int32_t rank, const ModelOptions& options,
                                         const WorkerOptions& worker_options,
                                         const ModelConfig& config, Checkpoint& checkpoint,
                                         const LoadProgress& progress) {
  ASSIGN_OR_RETURN(auto ops, CreateOps(RankOpsOptions(options, ranks_)));
  ASSIGN_OR_RETURN(const Topology topology, Topology::Create(layout_, rank));
  const ConnectRank connect = [&](Device* device) -> absl::StatusOr<RankLinks> {
    return world_.Join(topology, device, moe_comm_);
  };
  ASSIGN_OR_RETURN(workers_[rank],
                   Worker::Create(config, MakeShard(config, topology), worker_options, checkpoint,
                                  connect, std::move(ops), progress));
  return absl::OkStatus();
}

absl::Status LocalExecutor::Load(const ModelOptions& options, const ExecutorLimits& limits,
                                 const ModelConfig& config, Checkpoint& checkpoint,
                                 const LoadObserver& observer) {
  WorkerOptions worker_options{
      .dtype = options.dtype,
      .block_size = limits.block_size,
      .max_tokens = limits.max_num_batched_tokens,
      .max_positions = limits.max_model_len > 0 ? limits.max_model_len : config.context_limit()};
  workers_.resize(ranks_);
  for (int32_t i = 0; i < ranks_; ++i) threads_.push_back(std::make_unique<RankThread>());
  return OnEveryRank([&](int32_t rank) {
    // Ranks load side by side: the first one's progress stands for all.
    const LoadProgress progress = rank == 0 && observer ? observer : LoadProgress();
    return CreateWorker(rank, options, worker_options, config, checkpoint, progress);
  });
}

absl::StatusOr<StepResult> LocalExecutor::Wait() {
  StepResult result;
  result.step_id = step_ids_.front();
  step_ids_.pop_front();
  for (int32_t rank = 0; rank < ranks_; ++rank) {
    absl::StatusOr<BatchResult> part = threads_[rank]->Wait();
    if (!part.ok()) {
      if (dead_.ok()) dead_ = part.status();
    } else if (rank % layout_.tensor_parallel == 0) {
      result.groups.push_back(*std::move(part));
    }
  }
  {
    absl::MutexLock lock(&mutex_);
    if (dead_.ok()) dead_ = aborted_;
  }
  if (!dead_.ok()) return dead_;
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> CreateLocalExecutor(const ModelOptions& options,
                                                              const ExecutorLimits& limits,
                                                              const ModelConfig& config,
                                                              const LoadObserver& observer) {
  const LayoutRequest layout{.tensor_parallel = options.layout.tensor_parallel,
                             .data_parallel = options.layout.data_parallel,
                             .expert_parallel = options.layout.expert_parallel};
  RETURN_IF_ERROR(ValidateLayout(layout, LayoutShape(config)));
  ASSIGN_OR_RETURN(const MoeComm moe_comm, ParseMoeComm(options.layout.moe_comm));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                   Checkpoint::Open(options.model_dir));
  RETURN_IF_ERROR(VerifyCheckpoint(config, *checkpoint).status());
  auto executor = std::make_unique<LocalExecutor>(layout, moe_comm);
  RETURN_IF_ERROR(executor->Load(options, limits, config, *checkpoint, observer));
  return executor;
}

}  // namespace tessera
