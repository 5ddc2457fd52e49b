// Notices work that hangs, from a thread of its own.
#ifndef TESSERA_ENGINE_WATCHDOG_H_
#define TESSERA_ENGINE_WATCHDOG_H_

#include <cstdint>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/monotonic_clock.h"
#include "kernels/core/mutex.h"

namespace tessera {

// One thread does one piece of work after another. Beginning and ending one costs two locks that
// nobody else holds; the watching thread wakes up about once per limit, never while there is
// nothing to do.
class Watchdog {
 public:
  // Calls `late` once, from the watching thread, when a piece takes longer than the limit and
  // kGrace. Nothing is watched after that.
  Watchdog(absl::Duration limit, std::function<void()> late);
  ~Watchdog() { Stop(); }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void Begin();
  // False: it was late. Then everything that the working thread did alone is `late`'s from now on.
  [[nodiscard]] bool End();
  // Watches no longer, and waits for `late` to return when it has begun. Not from inside `late`.
  void Stop();

  // For work that has a time limit of its own to say so itself. A process that was stopped as a
  // whole goes on: see PatientDeadline.
  static constexpr absl::Duration kGrace = absl::Seconds(1);

 private:
  void Run();
  // False: stopped.
  bool AwaitLate();

  const absl::Duration limit_;
  const std::function<void()> late_;
  const MonotonicClock clock_{};
  Mutex mutex_;
  CondVar changed_;
  uint64_t piece_ ABSL_GUARDED_BY(mutex_) = 0;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_);    // of the piece
  bool idle_ ABSL_GUARDED_BY(mutex_) = false;      // the watching thread waits for a piece
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;  // the piece
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: everything it uses exists
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_WATCHDOG_H_
