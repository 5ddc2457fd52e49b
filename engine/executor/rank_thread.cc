#include "engine/executor/rank_thread.h"

#include <utility>

namespace tessera {

RankThread::RankThread() : thread_([this] { Loop(); }) {}

RankThread::~RankThread() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void RankThread::Post(std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  work_.push_back(std::move(work));
}

void RankThread::Submit(Worker* worker, std::shared_ptr<const StepPlan> plan) {
  Post([this, worker, plan = std::move(plan)] {
    absl::StatusOr<BatchResult> result = worker->Step(*plan);
    absl::MutexLock lock(&mutex_);
    results_.push_back(std::move(result));
  });
}

absl::StatusOr<BatchResult> RankThread::Wait() {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !results_.empty(); };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&ready));
  absl::StatusOr<BatchResult> result = std::move(results_.front());
  results_.pop_front();
  return result;
}

void RankThread::Loop() {
  const auto ready = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || !work_.empty(); };
  while (true) {
    std::function<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&ready));
      if (work_.empty()) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

}  // namespace tessera
