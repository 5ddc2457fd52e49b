// The sum over ranks of arrays that a transport has brought together on one GPU.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_RANK_SUM_H_
#define TESSERA_KERNELS_CUDA_KERNELS_RANK_SUM_H_

#include <cstdint>

#include "kernels/cuda/kernels/matrix.h"
#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

// out[i] = the sum over ranks of element i of their arrays, added in fp32 in ascending rank order
// and rounded once: the bits of the transports between CPUs.
struct RankSumLaunch {
  ConstRows parts;            // [ranks, count]
  const void* own = nullptr;  // [count], in the place of row `own_rank`; null: that row
  int32_t own_rank = 0;
  int32_t ranks = 0;
  void* out = nullptr;  // [count] of the same type; may be `own`
  int64_t count = 0;
};
cudaError_t LaunchRankSum(cudaStream_t stream, const RankSumLaunch& launch);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_RANK_SUM_H_
