#include "engine/watchdog.h"

#include <utility>

namespace tessera {

Watchdog::Watchdog(absl::Duration limit, std::function<void()> late)
    : limit_(limit), late_(std::move(late)), thread_([this] { Run(); }) {}

void Watchdog::Begin() {
  const absl::Time deadline = clock_.Now() + limit_;
  MutexLock lock(&mutex_);
  ++piece_;
  busy_ = true;
  deadline_ = deadline;
  if (std::exchange(idle_, false)) changed_.Signal();
}

bool Watchdog::End() {
  MutexLock lock(&mutex_);
  busy_ = false;
  return !given_up_;
}

void Watchdog::Stop() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.Signal();
  }
  thread_.join();
}

void Watchdog::Run() {
  if (AwaitLate()) late_();
}

bool Watchdog::AwaitLate() {
  MutexLock lock(&mutex_);
  uint64_t suspect = 0;  // a piece that is past its deadline
  while (!stop_) {
    if (!busy_) {
      idle_ = true;
      changed_.Wait(&mutex_);
      continue;
    }
    const absl::Time now = clock_.Now();
    deadline_ = PatientDeadline(deadline_, now, limit_);
    const absl::Duration left = deadline_ - now;
    if (left > absl::ZeroDuration()) {
      changed_.WaitWithTimeout(&mutex_, left);
    } else if (suspect != piece_) {
      suspect = piece_;
      deadline_ = clock_.Now() + kGrace;
    } else {
      given_up_ = true;
      return true;
    }
  }
  return false;
}

}  // namespace tessera
