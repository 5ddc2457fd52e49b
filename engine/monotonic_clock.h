// Time that never jumps, as absl::Time.
#ifndef TESSERA_ENGINE_MONOTONIC_CLOCK_H_
#define TESSERA_ENGINE_MONOTONIC_CLOCK_H_

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tessera {

// Starts at the wall clock and then follows the monotonic one. Only differences mean something.
// Thread-safe.
class MonotonicClock {
 public:
  absl::Time Now() const {
    return wall_start_ + absl::FromChrono(std::chrono::steady_clock::now() - start_);
  }

 private:
  absl::Time wall_start_ = absl::Now();
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MONOTONIC_CLOCK_H_
