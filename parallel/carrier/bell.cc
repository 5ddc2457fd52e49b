#include "parallel/carrier/bell.h"

#include "kernels/core/monotonic_time.h"
#include "parallel/carrier/futex.h"

namespace tessera {

void Bell::Ring() {
  // Both sides modify sleepers_: either the sleeper is seen here, or it sees the change.
  if (sleepers_.fetch_add(0) == 0) return;
  rings_.fetch_add(1);
  FutexWakeAll(&rings_);
}

bool Bell::Wait(absl::FunctionRef<bool()> ready, absl::Time deadline) {
  while (true) {
    sleepers_.fetch_add(1);
    const uint32_t ring = rings_.load();
    const bool is_ready = ready();
    const absl::Duration left =
        deadline == absl::InfiniteFuture() ? absl::InfiniteDuration() : deadline - MonotonicNow();
    if (!is_ready && left > absl::ZeroDuration()) FutexWait(&rings_, ring, left);
    sleepers_.fetch_sub(1);
    if (is_ready) return true;
    if (left <= absl::ZeroDuration()) return false;
  }
}

}  // namespace tessera
