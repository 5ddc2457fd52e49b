#include "engine/executor/rank_group.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/executor/rank_worker.h"
#include "engine/executor/weight_room.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/shard.h"
#include "kernels/core/control_group.h"
#include "kernels/core/host_device.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/shared_buffers.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops.h"

namespace tessera {
namespace {

// How long ranks that were told to stop may take.
constexpr absl::Duration kAbortGrace = absl::Seconds(1);
// How long a rank is waited for before the others are asked whether they have failed.
constexpr absl::Duration kLookRound = absl::Milliseconds(100);
constexpr absl::Duration kEndGrace = absl::Seconds(60);

// How the ranks of this process share its threads.
struct ThreadPlan {
  int carriers = 1;
  int threads_per_rank = 1;
  bool spin = false;       // every thread has a core of its own
  bool on_caller = false;  // the thread that waits for a step carries the first ranks
};

// With threads to spare every rank gets an equal share of them; with too few the ranks take turns
// on one thread per core. Ranks that wait for other processes or for a device's thread block their
// own thread, so they need one each. A rank alone sits on the thread that would only wait for it:
// that spares a lone request two wake-ups of a sleeping thread.
ThreadPlan PlanThreads(const RankGroupOptions& options, int ranks) {
  const int total = options.num_threads > 0 ? options.num_threads : UsableCpus();
  const bool may_share =
      options.settings.layout.nodes == 1 && ExecutesAtOnce(options.settings.backend);
  const int carriers = may_share ? std::min({ranks, total, UsableCpus()}) : ranks;
  if (carriers < ranks) return {.carriers = carriers, .on_caller = true};
  const int per_rank = std::max(1, total / ranks);
  return {.carriers = ranks,
          .threads_per_rank = per_rank,
          .spin = per_rank * ranks <= UsableCpus(),
          .on_caller = may_share && ranks == 1};
}

// A device that executes at once has nothing to do while the host plans, however early it is told.
// Experts move between steps, so that the next one must not have begun.
int32_t StepsUnderWay(const GroupSettings& settings) {
  if (settings.rebalance.interval > 0) return 1;
  if (settings.steps_under_way > 0) return settings.steps_under_way;
  return ExecutesAtOnce(settings.backend) ? 1 : static_cast<int32_t>(RankWorker::kMaxSteps);
}

// One step under way.
struct RunningStep {
  uint64_t step_id = 0;
  int32_t unfinished = 0;                 // ranks; with split steps: those that have not begun it
  std::vector<RankWorkerResult> results;  // by local rank
};

}  // namespace

struct RankGroup::State {
  State(RankGroupOptions group_options, ModelConfig model_config)
      : options(std::move(group_options)),
        config(std::move(model_config)),
        ranks(world_size() / options.settings.layout.nodes),
        threads(PlanThreads(options, ranks)),
        bell(threads.on_caller ? std::make_shared<Bell>() : nullptr),
        weights(threads.carriers < ranks ? SharedBuffers::Create() : nullptr),
        depth(StepsUnderWay(options.settings)),
        splits_steps(depth > 1 && !ExecutesAtOnce(options.settings.backend)),
        connector({.moe_comm = options.settings.moe_comm,
                   .timeout = options.settings.limits.step_timeout,
                   .remote = options.remote,
                   .backend = options.settings.backend,
                   .bell = bell}),
        workers(ranks) {}

  int32_t world_size() const {
    return options.settings.layout.tensor_parallel * options.settings.layout.data_parallel;
  }
  int32_t WorldRank(int32_t local_rank) const { return options.node * ranks + local_rank; }

  absl::Status CheckMemory() const;
  absl::Status CreateWorker(int32_t local_rank, const std::shared_ptr<Checkpoint>& checkpoint,
                            const LoadProgress& progress);
  // What a rank's seat does with a submitted step: all of it, or, with split steps, only Begin.
  void Step(int32_t local_rank, uint64_t step_number, const StepPlan& plan);
  void Begin(int32_t local_rank, uint64_t step_number, const StepPlan& plan);
  // Split steps: takes every rank's results of the oldest step, which all have begun.
  absl::Status Finish(RunningStep* step);
  // One rank's results. It may wait for a later one that has failed.
  absl::StatusOr<RankWorkerResult> FinishRank(int32_t rank, WaitLimit* limit);
  // The first reason wins; wakes Wait and everyone who waits for a rank.
  void Die(const absl::Status& reason) ABSL_LOCKS_EXCLUDED(mutex);
  NodeStepResult Collect(RunningStep step) const;
  // After a change that the waiting thread looks for while it carries ranks.
  void Ring() {
    num_changes.fetch_add(1);
    if (bell != nullptr) bell->Ring();
  }

  const RankGroupOptions options;
  ModelConfig config;        // constant once Load has settled whether the head is tied
  bool unties_head = false;  // it is not, although config.json says so
  const int32_t ranks;       // of this process
  const ThreadPlan threads;
  const std::shared_ptr<Bell> bell;              // when the waiting thread carries ranks
  const std::shared_ptr<SharedBuffers> weights;  // when ranks share threads
  const int32_t depth;                           // steps that may be under way
  const bool splits_steps;  // a step's end is awaited by Wait's caller instead of the rank's thread
  const std::shared_ptr<QuietWork> preparation = std::make_shared<QuietWork>();
  std::vector<Seat*> seats;  // by local rank; set before the first work
  RankConnector connector;
  // Entry r is made, used and ended on rank r's thread; read by others under the mutex.
  std::vector<std::unique_ptr<RankWorker>> workers;

  // Tells the thread that carries ranks when it pays to take the mutex and look.
  std::atomic<uint64_t> num_changes{0};
  absl::Mutex mutex;
  std::deque<RunningStep> steps ABSL_GUARDED_BY(mutex);
  uint64_t first_step ABSL_GUARDED_BY(mutex) = 0;  // number of steps.front()
  absl::Status dead ABSL_GUARDED_BY(mutex);        // sticky
};

// Refuses what cannot fit into the host's memory before anything is read. Counts two bytes per
// parameter and nothing twice, so it refuses nothing that does; the rest is refused where it is
// allocated.
absl::Status RankGroup::State::CheckMemory() const {
  if (!UsesHostMemory(options.settings.backend)) return absl::OkStatus();
  int64_t parameters = 0;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    parameters +=
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
  }
  const int64_t needed = 2 * parameters / world_size() * ranks;
  const int64_t available = AvailableHostMemory();
  if (needed <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      options.model_dir, ": its weights need at least ", needed, " bytes of memory here, ",
      available,
      " are free; free memory, spread the ranks over more nodes or serve a smaller model"));
}

absl::Status RankGroup::State::CreateWorker(int32_t local_rank,
                                            const std::shared_ptr<Checkpoint>& checkpoint,
                                            const LoadProgress& progress) {
  const GroupSettings& settings = options.settings;
  ASSIGN_OR_RETURN(auto ops, CreateOps({.backend = settings.backend,
                                        .num_threads = threads.threads_per_rank,
                                        .spin = threads.spin,
                                        .device_index = local_rank,
                                        .emulated_gpus = options.emulated_gpus,
                                        .gemm = settings.gemm,
                                        .queued_step_delay = settings.queued_step_delay,
                                        .cpu_isa = options.cpu_isa,
                                        .shared_weights = weights}));
  RETURN_IF_ERROR(CheckWeightRoom(config, settings, ops->device()));
  ASSIGN_OR_RETURN(const Topology topology,
                   Topology::Create(settings.layout, WorldRank(local_rank)));
  Seat* const shared_seat = seats[local_rank]->shared() ? seats[local_rank] : nullptr;
  const ConnectRank connect = [&](Device* device) {
    return connector.Connect({.topology = topology, .device = device, .shared_seat = shared_seat});
  };
  // Ranks that share a thread load in turns, so that none waits for peers that have not begun.
  const LoadProgress loaded = [&](double share) {
    if (progress) progress(share);
    if (shared_seat != nullptr) shared_seat->Yield();
  };
  const RankWorkerOptions worker_options{.dtype = settings.dtype,
                                         .block_size = settings.limits.block_size,
                                         .max_tokens = settings.limits.max_num_batched_tokens,
                                         .max_num_seqs = settings.limits.max_num_seqs,
                                         .max_positions = settings.limits.max_model_len,
                                         .rebalance_interval = settings.rebalance.interval,
                                         .preparation = preparation};
  ASSIGN_OR_RETURN(
      std::unique_ptr<RankWorker> worker,
      RankWorker::Create(config, MakeShard(config, topology, settings.rebalance.spare_slots),
                         worker_options, checkpoint, connect, std::move(ops), loaded));
  absl::MutexLock lock(&mutex);
  if (!dead.ok()) worker->Abort(dead);
  workers[local_rank] = std::move(worker);
  return dead;
}

void RankGroup::State::Begin(int32_t local_rank, uint64_t step_number, const StepPlan& plan) {
  if (absl::Status status = workers[local_rank]->Begin(plan); !status.ok()) {
    Die(status);
    return;
  }
  {
    absl::MutexLock lock(&mutex);
    if (step_number >= first_step) --steps[step_number - first_step].unfinished;
  }
  Ring();
}

absl::StatusOr<RankWorkerResult> RankGroup::State::FinishRank(int32_t rank, WaitLimit* limit) {
  while (true) {
    const absl::Duration left = limit->left();
    absl::StatusOr<RankWorkerResult> result = workers[rank]->Finish(std::min(left, kLookRound));
    if (!absl::IsDeadlineExceeded(result.status())) return result;
    if (left <= kLookRound) {
      return absl::DeadlineExceededError(
          absl::StrCat("rank ", WorldRank(rank), " has not finished within ",
                       absl::FormatDuration(options.settings.limits.step_timeout),
                       " (see --step-timeout): ", result.status().message()));
    }
    for (int32_t other = rank + 1; other < ranks; ++other) {
      RETURN_IF_ERROR(workers[other]->Health());
    }
  }
}

absl::Status RankGroup::State::Finish(RunningStep* step) {
  WaitLimit limit(options.settings.limits.step_timeout);
  for (int32_t rank = 0; rank < ranks; ++rank) {
    absl::StatusOr<RankWorkerResult> result = FinishRank(rank, &limit);
    if (!result.ok()) {
      Die(result.status());
      absl::MutexLock lock(&mutex);
      return dead;
    }
    step->results[rank] = *std::move(result);
  }
  return absl::OkStatus();
}

void RankGroup::State::Step(int32_t local_rank, uint64_t step_number, const StepPlan& plan) {
  RankWorker& worker = *workers[local_rank];
  const auto run = [&]() -> absl::StatusOr<RankWorkerResult> {
    RETURN_IF_ERROR(worker.Begin(plan));
    return worker.Finish(options.settings.limits.step_timeout);
  };
  absl::StatusOr<RankWorkerResult> result = run();
  if (!result.ok()) {
    Die(result.status());
    return;
  }
  {
    absl::MutexLock lock(&mutex);
    if (step_number < first_step) return;  // given up
    RunningStep& step = steps[step_number - first_step];
    step.results[local_rank] = *std::move(result);
    --step.unfinished;
  }
  Ring();
  // The results are on their way: what comes now delays the next step only.
  if (absl::Status status = worker.BetweenSteps(); !status.ok()) Die(status);
}

void RankGroup::State::Die(const absl::Status& reason) {
  absl::MutexLock lock(&mutex);
  if (!dead.ok()) return;
  dead = reason;
  connector.Abort(reason);  // reaches ranks that are still being made
  for (const auto& worker : workers) {
    if (worker != nullptr) worker->Abort(reason);
  }
  Ring();
}

NodeStepResult RankGroup::State::Collect(RunningStep step) const {
  NodeStepResult result{.step_id = step.step_id};
  const int32_t tp = options.settings.layout.tensor_parallel;
  for (int32_t i = 0; i < ranks; ++i) {
    result.ranks.push_back(step.results[i].report);
    if (WorldRank(i) == 0) result.expert_loads = std::move(step.results[i].expert_loads);
    if (WorldRank(i) % tp != 0) continue;
    result.group_ids.push_back(WorldRank(i) / tp);
    result.groups.push_back(std::move(step.results[i].batch));
  }
  return result;
}

RankGroup::RankGroup(RankGroupOptions options, ModelConfig config)
    : state_(std::make_shared<State>(std::move(options), std::move(config))) {
  // Neighbours sit together: they are the ones of one tensor-parallel group.
  const int32_t carriers = state_->threads.carriers;
  for (int32_t i = 0; i < carriers; ++i) {
    const int32_t seats =
        state_->ranks * (i + 1) / carriers - static_cast<int32_t>(state_->seats.size());
    const bool shared = state_->bell != nullptr;
    carriers_.push_back(std::make_unique<Carrier>(
        seats, shared ? state_->bell : std::make_shared<Bell>(),
        shared && i == 0 ? Carrier::Host::kCaller : Carrier::Host::kOwnThread));
    for (int32_t seat = 0; seat < seats; ++seat) {
      state_->seats.push_back(&carriers_.back()->seat(seat));
    }
  }
}

RankGroup::~RankGroup() { Shutdown(MonotonicNow() + kEndGrace).IgnoreError(); }

bool RankGroup::Await(absl::FunctionRef<bool()> condition, absl::Time deadline) {
  if (state_->bell == nullptr) {
    absl::MutexLock lock(&state_->mutex);
    return AwaitUntil(&state_->mutex, absl::Condition(&condition), deadline);
  }
  std::optional<uint64_t> looked_at;
  bool holds = false;
  return carriers_.front()->RunUntil(
      [&] {
        const uint64_t changes = state_->num_changes.load();
        if (looked_at == changes) return holds;
        looked_at = changes;
        absl::MutexLock lock(&state_->mutex);
        holds = condition();
        return holds;
      },
      deadline);
}

absl::Status RankGroup::OnEveryRank(RankWork work) {
  const auto shared_work = std::make_shared<const RankWork>(std::move(work));
  const auto pending = std::make_shared<std::vector<std::optional<absl::Status>>>(state_->ranks);
  for (int32_t rank = 0; rank < state_->ranks; ++rank) {
    state_->seats[rank]->Post([state = state_, shared_work, pending, rank] {
      absl::Status status = (*shared_work)(*state, rank);
      {
        absl::MutexLock lock(&state->mutex);
        (*pending)[rank] = std::move(status);
      }
      state->Ring();
    });
  }
  const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    return !state_->dead.ok() || std::all_of(pending->begin(), pending->end(),
                                             [](const auto& s) { return s.has_value(); });
  };
  Await(done, absl::InfiniteFuture());
  absl::MutexLock lock(&state_->mutex);
  for (const std::optional<absl::Status>& status : *pending) {
    if (status.has_value()) RETURN_IF_ERROR(*status);
  }
  return state_->dead;
}

absl::Status RankGroup::Load(const LoadProgress& progress) {
  ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> opened, Checkpoint::Open(state_->options.model_dir));
  const std::shared_ptr<Checkpoint> checkpoint = std::move(opened);
  ASSIGN_OR_RETURN(const bool own_head, HasOwnHead(state_->config, *checkpoint));
  state_->unties_head = own_head && state_->config.tie_word_embeddings;
  state_->config.tie_word_embeddings = !own_head;
  RETURN_IF_ERROR(VerifyCheckpoint(state_->config, *checkpoint).status());
  RETURN_IF_ERROR(state_->CheckMemory());
  return OnEveryRank([checkpoint, progress](State& state, int32_t rank) {
    // Ranks load side by side: the first one's progress stands for all.
    absl::Status status =
        state.CreateWorker(rank, checkpoint, rank == 0 ? progress : LoadProgress());
    // The others would wait for this one.
    if (!status.ok()) state.Die(status);
    return status;
  });
}

MemoryReport RankGroup::memory() const {
  MemoryReport largest = state_->workers.front()->memory();
  for (size_t i = 1; i < state_->workers.size(); ++i) {
    largest = LargestRank(largest, state_->workers[i]->memory());
  }
  return largest;
}

GroupFacts RankGroup::facts() const {
  return {.num_ranks = state_->world_size(),
          .unties_head = state_->unties_head,
          .gemm = state_->options.settings.gemm,
          .weights = {.stored = state_->config.quantization
                                    ? QuantizationText(*state_->config.quantization)
                                    : "plain",
                      .kept = std::string(DTypeName(state_->options.settings.dtype)),
                      .activations = "full"},
          .moe_comm = state_->workers.front()->model().moe_comm_choice(),
          .expert_rebalance_interval = state_->options.settings.rebalance.interval,
          .spare_expert_slots = state_->options.settings.rebalance.spare_slots,
          .spare_expert_bytes = state_->workers.front()->model().spare_expert_bytes(),
          .step_graphs = state_->workers.front()->step_graphs()};
}

absl::Status RankGroup::AllocateKv(int32_t num_blocks) {
  return OnEveryRank([num_blocks](State& state, int32_t rank) {
    return state.workers[rank]->AllocateKv(num_blocks);
  });
}

absl::Status RankGroup::AllocateTrialKv(int32_t num_blocks) {
  return OnEveryRank([num_blocks](State& state, int32_t rank) {
    return state.workers[rank]->AllocateTrialKv(num_blocks);
  });
}

int32_t RankGroup::max_steps_under_way() const { return state_->depth; }

void RankGroup::Submit(std::shared_ptr<const StepPlan> plan) {
  uint64_t number = 0;
  {
    absl::MutexLock lock(&state_->mutex);
    number = state_->first_step + state_->steps.size();
    state_->steps.push_back({.step_id = plan->step_id,
                             .unfinished = state_->ranks,
                             .results = std::vector<RankWorkerResult>(state_->ranks)});
  }
  for (int32_t rank = 0; rank < state_->ranks; ++rank) {
    state_->seats[rank]->Post([state = state_, rank, number, plan] {
      if (state->splits_steps) {
        state->Begin(rank, number, *plan);
      } else {
        state->Step(rank, number, *plan);
      }
    });
  }
}

absl::StatusOr<NodeStepResult> RankGroup::Wait() {
  const absl::Duration limit = state_->options.settings.limits.step_timeout;
  RunningStep step;
  uint64_t step_id = 0;
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex) {
    return !state_->dead.ok() || (!state_->steps.empty() && state_->steps.front().unfinished == 0);
  };
  const bool in_time = Await(ready, MonotonicNow() + limit);
  {
    absl::MutexLock lock(&state_->mutex);
    RETURN_IF_ERROR(state_->dead);
    step_id = state_->steps.empty() ? 0 : state_->steps.front().step_id;
    if (in_time) {
      step = std::move(state_->steps.front());
      state_->steps.pop_front();
      ++state_->first_step;
    }
  }
  if (in_time) {
    if (state_->splits_steps) RETURN_IF_ERROR(state_->Finish(&step));
    return state_->Collect(std::move(step));
  }
  const absl::Status late = absl::DeadlineExceededError(
      absl::StrCat("step ", step_id, " has not finished within ", absl::FormatDuration(limit),
                   ": a rank hangs (see --step-timeout)"));
  state_->Die(late);
  return late;
}

void RankGroup::Abort(const absl::Status& reason) { state_->Die(reason); }

absl::Status RankGroup::Shutdown(absl::Time deadline) {
  if (carriers_.empty()) return absl::OkStatus();
  {
    absl::MutexLock lock(&state_->mutex);
    if (!state_->dead.ok()) deadline = std::min(deadline, MonotonicNow() + kAbortGrace);
  }
  // A worker dies on the thread that used it.
  for (int32_t rank = 0; rank < state_->ranks; ++rank) {
    state_->seats[rank]->Post([state = state_, rank] {
      std::unique_ptr<RankWorker> worker;
      {
        absl::MutexLock lock(&state->mutex);
        worker.swap(state->workers[rank]);
      }
    });
  }
  int32_t hanging = 0;
  for (const auto& carrier : carriers_) carrier->BeginStop();
  for (const auto& carrier : carriers_) hanging += carrier->Stop(deadline) ? 0 : 1;
  carriers_.clear();
  state_->Die(absl::CancelledError("the executor has been shut down"));
  if (hanging == 0) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(hanging, " rank threads hang; left behind"));
}

}  // namespace tessera
