// The engine thread: takes requests in, runs steps, hands tokens out. While it sleeps, who submits
// a request starts the step itself: by the time the engine thread is awake the ranks compute.
#ifndef TESSERA_ENGINE_ENGINE_LOOP_H_
#define TESSERA_ENGINE_ENGINE_LOOP_H_

#include <cstdint>
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

  // The submitting thread, in the place of the engine thread.
  bool MayStandIn() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StandIn(std::unique_ptr<RequestState> state, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  // The watchdog's thread.
  void TakeOver();

  // Engine thread.
  void Run();
  bool TakeInbox(Inbox* inbox);
  void WaitForWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandleInbox(Inbox* inbox);
  void Start(std::unique_ptr<RequestState> state);
  void AddSiblings(RequestState* state);
  int32_t LeastLoadedGroup() const;
  // Nothing: the watchdog has taken over.
  std::optional<absl::Status> RunStep();
  // False when there is nothing to compute.
  bool BeginStep(absl::Time now);
  bool ScheduleAll(absl::Time now, StepPlan* plan, StepEvent* event);
  void TakeEvents(const ScheduleResult& result, absl::Time now);
  absl::Status FinishStep(StepUnderWay step, absl::StatusOr<StepResult> result);
  void CountUpdate(const SequenceUpdate& update);
  void DeliverOutput();
  absl::Status DeliverOne(RequestState* state, const SequenceUpdate& update,
                          const BatchResult& result);
  void End(RequestState* state, absl::Status status);
  void EndAll(const absl::Status& status);
  void LeaveQueue(RequestState* state);
  void PublishStats();
  absl::Status CheckBooks() const;
  void Die(const absl::Status& status);
  RequestState* Find(RequestId id);

  const EngineLoopOptions options_;
  const EngineHooks hooks_;
  const MonotonicClock clock_;

  // Engine thread only; the watchdog's when a step hangs on the engine thread, and a submitting
  // thread's while it stands in.
  const std::unique_ptr<Executor> executor_;
  std::vector<std::unique_ptr<Scheduler>> groups_;
  absl::flat_hash_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::optional<StepUnderWay> under_way_;
  PendingOutput output_;
  EngineStats counters_;
  std::optional<absl::Time> wake_at_;
  bool books_checked_ = true;  // since the last step
  bool long_idle_ = false;

  mutable Mutex mutex_;
  CondVar work_;  // the engine thread waits for the inbox
  CondVar gone_;  // Drain waits for requests to end
  Inbox inbox_ ABSL_GUARDED_BY(mutex_);
  QueueLimits queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t num_live_ ABSL_GUARDED_BY(mutex_) = 0;   // submitted, OnDone not returned
  bool waiting_ ABSL_GUARDED_BY(mutex_) = false;   // the engine thread, for work_
  bool stand_in_ ABSL_GUARDED_BY(mutex_) = false;  // a submitting thread is in its place
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
