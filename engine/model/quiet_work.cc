#include "engine/model/quiet_work.h"

#include <ctime>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tessera {
namespace {

// Unlike time on the wall it leaves out what the thread waited for, such as a disk.
absl::Duration ThreadTime() {
  timespec now = {};
  static_cast<void>(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now));
  return absl::DurationFromTimespec(now);
}

}  // namespace

absl::Status QuietWork::Run(absl::FunctionRef<absl::Status()> piece) {
  MutexLock lock(&turn_);
  const absl::Duration begun = ThreadTime();
  absl::Status status = piece();
  absl::SleepFor(kRest * (ThreadTime() - begun));
  return status;
}

}  // namespace tessera
