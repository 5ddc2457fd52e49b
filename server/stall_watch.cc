#include "server/stall_watch.h"

#include <algorithm>
#include <utility>

#include "kernels/core/monotonic_time.h"

namespace tessera {

StallWatch::StallWatch(absl::Duration limit) : limit_(limit), thread_([this] { Run(); }) {}

StallWatch::~StallWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void StallWatch::Add(std::weak_ptr<StallingCall> call) {
  absl::MutexLock lock(&mutex_);
  calls_.push_back(std::move(call));
}

void StallWatch::Run() {
  const absl::Duration pause =
      std::clamp(limit_ / 8, absl::Milliseconds(10), absl::Milliseconds(500));
  const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_ || !calls_.empty();
  };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work));
      if (AwaitFor(&mutex_, absl::Condition(&stopped), pause)) return;
    }
    // Outside the lock: a call that is looked at may end, and another one may come meanwhile.
    for (const std::shared_ptr<StallingCall>& call : Calls()) {
      call->LookForStall(MonotonicNow(), limit_);
    }
  }
}

std::vector<std::shared_ptr<StallingCall>> StallWatch::Calls() {
  std::vector<std::shared_ptr<StallingCall>> found;
  absl::MutexLock lock(&mutex_);
  std::erase_if(calls_, [&](const std::weak_ptr<StallingCall>& call) {
    std::shared_ptr<StallingCall> alive = call.lock();
    if (alive == nullptr) return true;
    found.push_back(std::move(alive));
    return false;
  });
  return found;
}

}  // namespace tessera
