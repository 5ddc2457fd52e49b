// The engine thread: takes requests in, begins steps, hands tokens out, takes steps' results.
#ifndef TESSERA_ENGINE_ENGINE_LOOP_H_
#define TESSERA_ENGINE_ENGINE_LOOP_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/monotonic_clock.h"
#include "engine/request_state.h"
#include "engine/scheduler/queue_limits.h"
#include "engine/scheduler/scheduler.h"
#include "engine/step_result_check.h"
#include "engine/thread_role.h"
#include "engine/watchdog.h"
#include "kernels/core/mutex.h"

namespace tessera {

struct EngineLoopOptions {
  SchedulerOptions scheduler;  // num_blocks, max_model_len and vocab_size are set
  absl::Duration step_timeout = absl::Seconds(60);
  RequestDefaults defaults;  // seed: the base of drawn seeds
};

class EngineLoop final : public Engine {
 public:
  EngineLoop(const EngineLoopOptions& options, std::unique_ptr<Executor> executor,
             EngineHooks hooks);
  ~EngineLoop() override;

  absl::StatusOr<RequestId> Submit(GenerateRequest request,
                                   std::shared_ptr<ResponseSink> sink) override;
  void Cancel(RequestId id, absl::Status status) override;
  EngineStats stats() const override;
  int32_t NumWaitingBefore(int32_t priority, const TenantClaim& tenant) const override {
    MutexLock lock(&mutex_);
    return queue_.num_before(priority, tenant);
  }
  std::vector<TenantBacklog> Backlogs() const override {
    MutexLock lock(&mutex_);
    return queue_.Backlogs();
  }
  int32_t max_model_len() const override { return options_.scheduler.max_model_len; }
  absl::Status Drain(absl::Time deadline) override;

 private:
  struct Cancellation {
    RequestId id;
    absl::Status status;
  };
  struct Inbox {
    std::vector<std::unique_ptr<RequestState>> submissions;
    std::vector<Cancellation> cancellations;
    absl::Status cancel_all;  // not OK: everyone ends with it
    bool empty() const { return submissions.empty() && cancellations.empty() && cancel_all.ok(); }
  };
  // What the last step brought and nobody has been told yet.
  struct PendingOutput {
    std::vector<std::vector<SequenceUpdate>> updates;  // per group
    StepResult result;
    bool empty() const { return updates.empty(); }
  };

  struct StepUnderWay {
    StepShape shape;
    absl::Time started;
    absl::Time submitted;  // to the executor
    StepEvent event;
  };

  // Any thread.
  void WakeLoop() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The watchdog's thread.
  void TakeOver();

  // The engine thread, or the watchdog's once it has taken over.
  void Run();
  bool TakeInbox(Inbox* inbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void WaitForWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_, mutex_);
  void HandleInbox(Inbox* inbox) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void Start(std::unique_ptr<RequestState> state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void AddSiblings(RequestState* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  int32_t LeastLoadedGroup() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  // Until the executor has as many steps as it may have, or there is nothing to compute.
  void BeginSteps() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  bool BeginStep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  bool ScheduleAll(absl::Time now, StepPlan* plan, StepEvent* event)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void TakeEvents(const ScheduleResult& result, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  // Nothing: the watchdog has taken over.
  std::optional<absl::Status> AwaitStep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  absl::Status FinishStep(StepUnderWay step, absl::StatusOr<StepResult> result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  absl::Status Idle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void CountUpdate(const SequenceUpdate& update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void CountBeams(const SequenceUpdate& update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void DeliverOutput() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  absl::Status DeliverOne(RequestState* state, const SequenceUpdate& update,
                          const BatchResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void DeliverBeams(RequestState* state, const SequenceUpdate& update)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void End(RequestState* state, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void EndAll(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void LeaveQueue(RequestState* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void PublishStats() ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  absl::Status CheckBooks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  void Die(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);
  RequestState* Find(RequestId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(loop_);

  const EngineLoopOptions options_;
  const EngineHooks hooks_;
  const MonotonicClock clock_{};

  ThreadRole loop_;
  const std::unique_ptr<Executor> executor_;  // of the loop, but for Abort
  std::vector<std::unique_ptr<Scheduler>> groups_ ABSL_GUARDED_BY(loop_);
  absl::flat_hash_map<RequestId, std::unique_ptr<RequestState>> requests_ ABSL_GUARDED_BY(loop_);
  std::deque<StepUnderWay> under_way_ ABSL_GUARDED_BY(loop_);  // oldest first
  uint64_t next_step_ ABSL_GUARDED_BY(loop_) = 0;
  absl::Time last_finish_ ABSL_GUARDED_BY(loop_) = absl::InfinitePast();  // of a step
  PendingOutput output_ ABSL_GUARDED_BY(loop_);
  EngineStats counters_ ABSL_GUARDED_BY(loop_);
  std::optional<absl::Time> wake_at_ ABSL_GUARDED_BY(loop_);
  bool books_checked_ ABSL_GUARDED_BY(loop_) = true;  // since the last step
  bool long_idle_ ABSL_GUARDED_BY(loop_) = false;
  bool rested_ ABSL_GUARDED_BY(loop_) = true;  // for want of work, since the last step began

  mutable Mutex mutex_;
  CondVar work_;  // the engine thread waits for the inbox
  CondVar gone_;  // Drain waits for requests to end
  Inbox inbox_ ABSL_GUARDED_BY(mutex_);
  QueueLimits queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t num_live_ ABSL_GUARDED_BY(mutex_) = 0;  // submitted, OnDone not returned
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;  // the engine thread, for work_
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status death_ ABSL_GUARDED_BY(mutex_);
  EngineStats published_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_progress_ ABSL_GUARDED_BY(mutex_);

  Watchdog watchdog_;   // of steps
  std::thread thread_;  // last: everything it uses exists
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_ENGINE_LOOP_H_
