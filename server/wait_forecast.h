// How long a request that comes now would take to be answered.
#ifndef TESSERA_SERVER_WAIT_FORECAST_H_
#define TESSERA_SERVER_WAIT_FORECAST_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// Learns from what the engine has finished. The rate at which a busy engine finishes requests is
// measured only while others wait all the time: a server with little to do says nothing about what
// it could do. Little's law then gives the wait behind a queue, and the time of recent requests
// from their first step to their last token the rest. Thread-safe.
class WaitForecast {
 public:
  // A request that the engine worked for has ended; `service`: from its first step to its end.
  // `num_waiting`: requests in the queue now.
  void Finished(absl::Time now, absl::Duration service, int32_t num_waiting);

  struct Forecast {
    absl::Duration wait;     // until its first step
    absl::Duration service;  // from there to its end: longer than most recent requests took
  };
  // Zero while too little is known. Not for an empty queue: nothing waits there.
  Forecast Of(absl::Time now, int32_t num_waiting);

 private:
  void CloseWindow(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  // The present window of measurement.
  absl::Time window_begin_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int64_t num_finished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool always_busy_ ABSL_GUARDED_BY(mutex_) = false;
  // What windows and requests have taught; 0: nothing yet.
  double rate_ ABSL_GUARDED_BY(mutex_) = 0;       // requests per second
  double service_ ABSL_GUARDED_BY(mutex_) = 0;    // seconds, mean
  double deviation_ ABSL_GUARDED_BY(mutex_) = 0;  // seconds, mean distance from the mean
};

}  // namespace tessera

#endif  // TESSERA_SERVER_WAIT_FORECAST_H_
