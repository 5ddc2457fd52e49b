// Vector clocks: who knows of whose accesses. An agent is a thread, the cp.async unit of a thread,
// the wgmma unit of a warpgroup or one of the TMA units of a cluster; each has one component of the
// clocks of its cluster. An access happened before another one if the second one's agent knows the
// first one's clock.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_CLOCK_H_
#define TESSERA_KERNELS_CUDA_EMULATION_CLOCK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera::simt::emulation {

// One access by an agent: atomic (1 bit), component (14), clock (17). 0: never.
using Epoch = uint32_t;
inline constexpr int kClockBits = 17;
inline constexpr int kComponentBits = 14;
inline constexpr uint32_t kClockMask = (1U << kClockBits) - 1;
inline constexpr Epoch kAtomicEpoch = 1U << 31;

using ClockVector = std::vector<uint32_t>;

inline Epoch EpochOf(uint32_t component, uint32_t clock) { return component << kClockBits | clock; }
inline uint32_t ComponentOf(Epoch e) { return e >> kClockBits & ((1U << kComponentBits) - 1); }
inline bool IsAtomic(Epoch e) { return (e & kAtomicEpoch) != 0; }
inline bool Ordered(Epoch e, const uint32_t* clock) {
  return (e & kClockMask) <= clock[ComponentOf(e)];
}
// Whether what must be ordered after `later` too need not be compared with `earlier`: an access of
// the same agent in front of it, in conflict with nothing that `later` is not in conflict with
// (atomics are not with each other).
inline bool Covers(Epoch later, Epoch earlier) {
  return ComponentOf(later) == ComponentOf(earlier) &&
         (earlier & kClockMask) <= (later & kClockMask) && (IsAtomic(earlier) || !IsAtomic(later));
}
inline void Join(uint32_t* __restrict into, const uint32_t* __restrict from, size_t n) {
  for (size_t i = 0; i < n; ++i) into[i] = std::max(into[i], from[i]);
}

// Repeatable random numbers (xorshift64*).
class Random {
 public:
  void Seed(uint64_t seed) {
    state_ = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (int i = 0; i < 8; ++i) Next();
  }
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1dULL >> 16;
  }
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(Next() % n); }

 private:
  uint64_t state_ = 1;
};

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_CLOCK_H_
