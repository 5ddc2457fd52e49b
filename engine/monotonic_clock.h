// A clock that never jumps.
#ifndef TESSERA_ENGINE_MONOTONIC_CLOCK_H_
#define TESSERA_ENGINE_MONOTONIC_CLOCK_H_

#include "absl/time/time.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {

// All of them show the same. Thread-safe.
class MonotonicClock {
 public:
  absl::Time Now() const { return MonotonicNow(); }
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MONOTONIC_CLOCK_H_
