// Time that never jumps, and time limits that stand a stop of the whole process.
#ifndef TESSERA_KERNELS_CORE_MONOTONIC_TIME_H_
#define TESSERA_KERNELS_CORE_MONOTONIC_TIME_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// What the wall clock showed when this process first asked, and then the monotonic clock: setting
// the machine's clock changes nothing. All deadlines of this program are by this time.
absl::Time MonotonicNow();

// What the wall clock shows when MonotonicNow() is `time`, unless it is set in between: for
// libraries that take wall times and turn them into distances at once.
absl::Time WallTime(absl::Time time);

// A wait that ends this much after its limit shows that the process did not run: it was stopped
// (SIGSTOP, a paused container or virtual machine) or got no processor.
constexpr absl::Duration kStopNoticed = absl::Milliseconds(300);

// What becomes of a deadline when it is looked at: itself, or, when the process did not run in the
// meantime, a later one. `limit` is the whole time that the work may take. Whoever waits must look
// at the deadline when it comes.
absl::Time PatientDeadline(absl::Time deadline, absl::Time now, absl::Duration limit);

// A time limit, for loops that sleep no longer than left() before they look again.
class WaitLimit {
 public:
  explicit WaitLimit(absl::Duration limit) : limit_(limit), deadline_(MonotonicNow() + limit) {}
  // Zero: it is over.
  absl::Duration left();

 private:
  const absl::Duration limit_;
  absl::Time deadline_;
};

// Like mutex->AwaitWithDeadline and AwaitWithTimeout, which go by the wall clock: until `condition`
// holds, or until the deadline by MonotonicNow(), extended when the process was stopped. Returns
// whether the condition holds. Costs a lock of the process when it has to wait.
bool AwaitUntil(absl::Mutex* mutex, const absl::Condition& condition, absl::Time deadline)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
bool AwaitFor(absl::Mutex* mutex, const absl::Condition& condition, absl::Duration timeout)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_MONOTONIC_TIME_H_
