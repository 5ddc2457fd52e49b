// A thread that runs one rank's steps in order.
#ifndef TESSERA_ENGINE_EXECUTOR_RANK_THREAD_H_
#define TESSERA_ENGINE_EXECUTOR_RANK_THREAD_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/executor/worker.h"
#include "engine/scheduler/step_plan.h"

namespace tessera {

// Submit, Wait and Run: one thread. The worker is used on this object's own thread only.
class RankThread {
 public:
  RankThread();
  ~RankThread();  // finishes what was submitted
  RankThread(const RankThread&) = delete;
  RankThread& operator=(const RankThread&) = delete;

  // Runs a function on the rank's thread after what was submitted before; does not wait.
  void Post(std::function<void()> work);
  // Enqueues a step for `worker`; Wait returns results in the order of Submit.
  void Submit(Worker* worker, std::shared_ptr<const StepPlan> plan);
  absl::StatusOr<BatchResult> Wait();

 private:
  void Loop();

  absl::Mutex mutex_;
  std::deque<std::function<void()>> work_ ABSL_GUARDED_BY(mutex_);
  std::deque<absl::StatusOr<BatchResult>> results_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_RANK_THREAD_H_
