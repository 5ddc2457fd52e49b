#include "engine/engine_loop.h"

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// The books are checked when the engine has been idle for so long, off everyone's way.
constexpr absl::Duration kIdleBeforeCheck = absl::Seconds(1);
// How long requests may take to end once they were told to.
constexpr absl::Duration kDrainGrace = absl::Seconds(5);

// The boundary around one request's work: what it throws ends that request, not the engine.
// Callers play the loop's role, which the analysis cannot see through a template's lambda.
template <typename Work>
absl::Status Guarded(const Work& work) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  try {
    return work();
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("processing the request failed: ", error.what()));
  } catch (...) {
    return absl::InternalError("processing the request failed");
  }
}

// splitmix64: distinct requests get unrelated seeds.
uint64_t DrawSeed(uint64_t base, uint64_t id) {
  uint64_t z = base + id * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

EngineLoop::EngineLoop(const EngineLoopOptions& options, std::unique_ptr<Executor> executor,
                       EngineHooks hooks)
    : options_(options),
      hooks_(std::move(hooks)),
      executor_(std::move(executor)),
      queue_(options.scheduler),
      last_progress_(clock_.Now()),
      watchdog_(options.step_timeout, [this] { TakeOver(); }) {
  const BlockHash key = BlockHasher::RandomKey();
  for (int32_t i = 0; i < executor_->num_groups(); ++i) {
    groups_.push_back(std::make_unique<Scheduler>(options.scheduler, key));
  }
  const StepGraphFacts graphs = executor_->facts().step_graphs;
  counters_.step_graphs = graphs.count;
  counters_.step_graph_bytes = graphs.bytes;
  PublishStats();
  thread_ = std::thread([this] { Run(); });
}

EngineLoop::~EngineLoop() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    draining_ = true;
    WakeLoop();
  }
  thread_.join();
  watchdog_.Stop();
  executor_->Shutdown(MonotonicNow() + kDrainGrace).IgnoreError();
}

void EngineLoop::WakeLoop() {
  if (waiting_) work_.Signal();
}

absl::StatusOr<RequestId> EngineLoop::Submit(GenerateRequest request,
                                             std::shared_ptr<ResponseSink> sink) {
  RETURN_IF_ERROR(CheckRequest(request, max_model_len(), options_.defaults.vocab_size));
  RETURN_IF_ERROR(FitBeams(options_.scheduler, &request));
  QueuedRequest queued{.priority = request.priority,
                       .tokens = static_cast<int64_t>(request.prompt_ids.size()),
                       .tenant = request.tenant.name,
                       .weight = request.tenant.weight};
  {
    MutexLock lock(&mutex_);
    if (!death_.ok()) return absl::UnavailableError("the engine has failed");
    if (draining_) return absl::UnavailableError("the server is shutting down");
    queued.id = static_cast<RequestId>(next_id_++);
    ASSIGN_OR_RETURN(const std::vector<RequestId> leaving, queue_.Enter(queued));
    for (const RequestId other : leaving)
      inbox_.cancellations.push_back({other, QueueLimits::MadeRoom()});
    if (num_live_++ == 0) last_progress_ = clock_.Now();
  }
  // The costly part runs on the caller's thread, outside the lock.
  RequestDefaults defaults = options_.defaults;
  defaults.seed = DrawSeed(options_.defaults.seed, static_cast<uint64_t>(queued.id));
  defaults.now = clock_.Now();
  auto state = MakeRequestState(queued.id, std::move(request), std::move(sink), defaults);
  bool sleeps = false;
  {
    MutexLock lock(&mutex_);
    const bool ended = !death_.ok() || stop_;
    if (ended || !queue_.Has(queued)) {
      queue_.Leave(queued);
      --num_live_;
      gone_.SignalAll();
      return ended ? absl::UnavailableError("the engine has ended") : QueueLimits::MadeRoom();
    }
    sleeps = waiting_;
    inbox_.submissions.push_back(std::move(state));
  }
  // Outside the lock: the engine thread may run at once, on this very core.
  if (sleeps) work_.Signal();
  return queued.id;
}

void EngineLoop::Cancel(RequestId id, absl::Status status) {
  MutexLock lock(&mutex_);
  if (!death_.ok()) return;  // everyone has been told, and nobody empties the inbox any more
  inbox_.cancellations.push_back({id, std::move(status)});
  WakeLoop();
}

EngineStats EngineLoop::stats() const {
  MutexLock lock(&mutex_);
  EngineStats stats = published_;
  stats.num_waiting += static_cast<int32_t>(inbox_.submissions.size());
  stats.num_waiting_tokens = queue_.num_tokens();
  stats.alive = death_.ok();
  stats.step_age = num_live_ == 0 ? absl::ZeroDuration() : clock_.Now() - last_progress_;
  return stats;
}

absl::Status EngineLoop::Drain(absl::Time deadline) {
  MutexLock lock(&mutex_);
  draining_ = true;
  const auto wait_until = [&](absl::Time until) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (num_live_ > 0) {
      const absl::Duration left = until - clock_.Now();
      if (left <= absl::ZeroDuration()) return false;
      gone_.WaitWithTimeout(&mutex_, left);
    }
    return true;
  };
  if (wait_until(deadline)) return absl::OkStatus();
  const int64_t left = num_live_;
  inbox_.cancel_all = absl::UnavailableError("the server is shutting down");
  WakeLoop();
  if (!wait_until(clock_.Now() + kDrainGrace)) {
    return absl::DeadlineExceededError(absl::StrCat(num_live_, " requests did not end in time"));
  }
  return absl::DeadlineExceededError(
      absl::StrCat(left, " requests were ended at the drain deadline"));
}

// --- Engine thread ---

void EngineLoop::Run() {
  const PlaysRole role(&loop_);
  Inbox inbox;
  while (TakeInbox(&inbox)) {
    HandleInbox(&inbox);
    BeginSteps();
    // While the devices compute, the clients get the tokens of the step before.
    DeliverOutput();
    const std::optional<absl::Status> status = under_way_.empty() ? Idle() : AwaitStep();
    if (!status.has_value()) return;  // nothing is this thread's any more
    if (!status->ok()) return Die(*status);
  }
  DeliverOutput();
  HandleInbox(&inbox);
  EndAll(absl::UnavailableError("the server is shutting down"));
}

// False when the engine is to stop. Blocks only while there is nothing to do.
bool EngineLoop::TakeInbox(Inbox* inbox) {
  MutexLock lock(&mutex_);
  WaitForWork();
  *inbox = std::exchange(inbox_, {});
  return !stop_;
}

void EngineLoop::WaitForWork() {
  long_idle_ = false;
  const bool all_idle =
      std::all_of(groups_.begin(), groups_.end(), [](const auto& group) { return group->idle(); });
  if (!output_.empty() || !under_way_.empty() || (!all_idle && !wake_at_.has_value())) return;
  const auto has_work = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || !inbox_.empty();
  };
  waiting_ = true;
  rested_ = true;
  while (!has_work() && !long_idle_) {
    if (wake_at_.has_value()) {
      const absl::Duration left = *wake_at_ - clock_.Now();
      if (left <= absl::ZeroDuration() || work_.WaitWithTimeout(&mutex_, left)) break;
    } else if (books_checked_) {
      work_.Wait(&mutex_);
    } else {
      long_idle_ = work_.WaitWithTimeout(&mutex_, kIdleBeforeCheck) && !has_work();
    }
  }
  waiting_ = false;
}

void EngineLoop::HandleInbox(Inbox* inbox) {
  for (auto& state : inbox->submissions) Start(std::move(state));
  inbox->submissions.clear();
  for (Cancellation& cancellation : inbox->cancellations) {
    RequestState* state = Find(cancellation.id);
    if (state != nullptr) End(state, std::move(cancellation.status));
  }
  inbox->cancellations.clear();
  if (!inbox->cancel_all.ok()) EndAll(inbox->cancel_all);
}

RequestState* EngineLoop::Find(RequestId id) {
  const auto it = requests_.find(id);
  return it == requests_.end() ? nullptr : it->second.get();
}

int32_t EngineLoop::LeastLoadedGroup() const {
  if (groups_.size() == 1) return 0;
  const auto least =
      std::min_element(groups_.begin(), groups_.end(),
                       [](const auto& a, const auto& b) { return a->load() < b->load(); });
  return static_cast<int32_t>(least - groups_.begin());
}

void EngineLoop::Start(std::unique_ptr<RequestState> state) {
  RequestState* added = state.get();
  added->group = LeastLoadedGroup();
  requests_.emplace(added->id, std::move(state));
  groups_[added->group]->Add(std::move(added->choices.front().sequence));
}

// The other choices start when the first one's prompt is computed: they find it in the prefix
// cache.
void EngineLoop::AddSiblings(RequestState* state) {
  state->siblings_added = true;
  for (ChoiceState& choice : state->choices) {
    if (choice.sequence != nullptr) groups_[state->group]->Add(std::move(choice.sequence));
  }
}

void EngineLoop::BeginSteps() {
  const auto limit = static_cast<size_t>(executor_->max_steps_under_way());
  while (under_way_.size() < limit && BeginStep()) {
  }
}

bool EngineLoop::BeginStep() {
  const absl::Time now = clock_.Now();
  wake_at_.reset();
  StepPlan plan{.step_id = next_step_};
  StepUnderWay step{.started = now};
  if (!ScheduleAll(now, &plan, &step.event)) return false;
  ++next_step_;
  books_checked_ = false;
  step.event.after_rest = std::exchange(rested_, false);
  step.shape = StepShape::Of(plan);
  step.submitted = clock_.Now();
  under_way_.push_back(std::move(step));
  executor_->Submit(std::move(plan));
  return true;
}

absl::Status EngineLoop::Idle() {
  PublishStats();
  if (!long_idle_) return absl::OkStatus();
  books_checked_ = true;
  return CheckBooks();
}

std::optional<absl::Status> EngineLoop::AwaitStep() {
  watchdog_.Begin();
  absl::StatusOr<StepResult> result = executor_->Wait();
  if (!watchdog_.End()) return std::nullopt;
  StepUnderWay step = std::move(under_way_.front());
  under_way_.pop_front();
  return FinishStep(std::move(step), std::move(result));
}

bool EngineLoop::ScheduleAll(absl::Time now, StepPlan* plan, StepEvent* event) {
  bool any = false;
  for (auto& group : groups_) {
    ScheduleResult result = group->Schedule(now);
    event->prefill_tokens += result.prefill_tokens;
    event->decode_tokens += result.decode_tokens;
    any = any || result.plan.num_sequences() > 0;
    if (result.wake_at.has_value()) {
      wake_at_ = std::min(wake_at_.value_or(absl::InfiniteFuture()), *result.wake_at);
    }
    TakeEvents(result, now);
    plan->groups.push_back(std::move(result.plan));
  }
  if (any) wake_at_.reset();
  return any;
}

void EngineLoop::TakeEvents(const ScheduleResult& result, absl::Time now) {
  for (SequenceId id : result.started) {
    RequestState* state = Find(RequestOf(id));
    if (state == nullptr || ChoiceOf(id) != 0) continue;
    state->timing.first_scheduled = now;
    LeaveQueue(state);
  }
  for (SequenceId id : result.preempted) {
    RequestState* state = Find(RequestOf(id));
    if (state != nullptr) ++state->timing.num_preemptions;
  }
  for (SequenceId id : result.expired) {
    RequestState* state = Find(RequestOf(id));
    if (state == nullptr) continue;
    End(state, absl::DeadlineExceededError(state->in_queue
                                               ? "the deadline passed before the request started"
                                               : "the deadline passed"));
  }
}

absl::Status EngineLoop::FinishStep(StepUnderWay step, absl::StatusOr<StepResult> result) {
  const absl::Time finished = clock_.Now();
  RETURN_IF_ERROR(result.status());
  RETURN_IF_ERROR(CheckStepResult(step.shape, *result));
  output_.result = *std::move(result);
  // The ranks were the step's own since the one before ended.
  const absl::Time before = std::exchange(last_finish_, finished);
  step.event.execution = finished - std::max(step.submitted, before);
  step.event.ranks = std::move(output_.result.ranks);
  step.event.expert_loads = std::move(output_.result.expert_loads);
  for (size_t g = 0; g < groups_.size(); ++g) {
    output_.updates.emplace_back();
    if (!step.shape.has_work[g]) continue;
    output_.updates[g] = groups_[g]->Apply(output_.result.groups[g]);
    groups_[g]->ObserveApplied(step.event.execution);
    for (const SequenceUpdate& update : output_.updates[g]) CountUpdate(update);
  }
  ++counters_.num_steps;
  step.event.duration = clock_.Now() - std::max(step.started, before);
  if (hooks_.on_step) hooks_.on_step(step.event);
  PublishStats();
  return absl::OkStatus();
}

void EngineLoop::DeliverOutput() {
  const PendingOutput output = std::exchange(output_, {});
  for (size_t g = 0; g < output.updates.size(); ++g) {
    for (const SequenceUpdate& update : output.updates[g]) {
      RequestState* state = Find(RequestOf(update.id));
      if (state == nullptr) continue;  // ended meanwhile
      const absl::Status status = Guarded([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_) {
        return DeliverOne(state, update, output.result.groups[g]);
      });
      if (!status.ok()) {
        End(state, status);
      } else if (state->num_unfinished == 0) {
        End(state, absl::OkStatus());
      }
    }
  }
}

void EngineLoop::LeaveQueue(RequestState* state) {
  if (!std::exchange(state->in_queue, false)) return;
  MutexLock lock(&mutex_);
  queue_.Leave(state->queued());
}

void EngineLoop::End(RequestState* state, absl::Status status) {
  const auto node = requests_.extract(state->id);  // from now on nobody finds it
  for (int32_t i = 0; i < state->num_sequence_ids(); ++i) {
    groups_[state->group]->Finish(SequenceOf(state->id, i));
  }
  LeaveQueue(state);
  const FinishInfo info{.usage = state->TotalUsage(), .timing = state->timing};
  Guarded([&] {
    state->sink->OnDone(status, info);
    return absl::OkStatus();
  }).IgnoreError();
  MutexLock lock(&mutex_);
  --num_live_;
  gone_.SignalAll();
}

void EngineLoop::EndAll(const absl::Status& status) {
  while (!requests_.empty()) End(requests_.begin()->second.get(), status);
}

void EngineLoop::PublishStats() {
  SchedulerStats sum;
  for (const auto& group : groups_) {
    const SchedulerStats s = group->stats();
    sum.num_running += s.num_running;
    sum.num_waiting += s.num_waiting;
    sum.blocks_total += s.blocks_total;
    sum.blocks_used += s.blocks_used;
    sum.blocks_cached += s.blocks_cached;
    sum.blocks_free += s.blocks_free;
    sum.prefix_cache_queries += s.prefix_cache_queries;
    sum.prefix_cache_hits += s.prefix_cache_hits;
    sum.num_preemptions += s.num_preemptions;
  }
  counters_.num_running = sum.num_running;
  counters_.num_waiting = sum.num_waiting;
  counters_.kv_blocks_total = sum.blocks_total;
  counters_.kv_blocks_used = sum.blocks_used;
  counters_.kv_blocks_cached = sum.blocks_cached;
  counters_.kv_blocks_free = sum.blocks_free;
  counters_.prefix_cache_queries = sum.prefix_cache_queries;
  counters_.prefix_cache_hits = sum.prefix_cache_hits;
  counters_.num_preemptions = sum.num_preemptions;
  MutexLock lock(&mutex_);
  published_ = counters_;
  last_progress_ = clock_.Now();
}

absl::Status EngineLoop::CheckBooks() const {
  for (const auto& group : groups_) {
    RETURN_IF_ERROR(group->CheckIntegrity());
    if (group->stats().blocks_used != 0) {
      return absl::InternalError("an idle engine holds KV blocks: they were never released");
    }
  }
  return absl::OkStatus();
}

// A rank hangs on the engine thread, inside the executor. That thread touches nothing here again,
// so this one does in its place what it would do if the executor had failed.
void EngineLoop::TakeOver() {
  const PlaysRole role(&loop_);
  const absl::Status late = absl::DeadlineExceededError(absl::StrCat(
      "step ", under_way_.front().shape.step_id, " has not finished within ",
      absl::FormatDuration(options_.step_timeout), ": a rank hangs (see --step-timeout)"));
  Die(late);
  executor_->Abort(late);  // last: it may need a lock that the rank holds
}

// Ends every stream; the process is expected to end, too.
void EngineLoop::Die(const absl::Status& status) {
  Inbox inbox;
  {
    MutexLock lock(&mutex_);
    death_ = status;
    inbox = std::exchange(inbox_, {});
  }
  const absl::Status unavailable =
      absl::UnavailableError(absl::StrCat("the engine has failed: ", status.message()));
  inbox.cancel_all = unavailable;
  for (auto& state : inbox.submissions) requests_.emplace(state->id, std::move(state));
  EndAll(unavailable);
  if (hooks_.on_dead) hooks_.on_dead(status);
}

}  // namespace tessera
