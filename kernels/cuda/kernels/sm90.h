// What the kernels with TMA and wgmma (sm_90a) share.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SM90_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SM90_H_

#include <cstdint>

#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

inline constexpr int kSm90Capability = 90;  // compute capability that has wgmma

namespace sm90 {

inline constexpr int kGroupThreads = 128;  // a warpgroup
inline constexpr int kGroupWarps = kGroupThreads / simt::kWarpSize;

// Of a pipeline: a stage, and the parity of its current use.
template <int kStages>
struct Position {
  int stage = 0;
  uint32_t parity = 0;
  SIMT_DEVICE void Next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1U;
  }
};

}  // namespace sm90
}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SM90_H_
