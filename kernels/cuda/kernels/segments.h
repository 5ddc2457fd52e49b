// How K is cut into segments: the same for every kernel that multiplies matrices.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SEGMENTS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SEGMENTS_H_

#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

// The steps of step_k elements in a segment of a product of n columns; from n and k alone, because
// each segment is summed by itself and the sums are added in order, whoever does it. One tile of
// few rows shall fill a device with 256 blocks, but a segment has at least 256 elements, and there
// are at most 32, lest the sums weigh more than the weights.
inline int SegmentSteps(int n, int k, int step_k) {
  constexpr int kBlocks = 256;
  constexpr int kBlockColumns = 128;
  constexpr int kMinK = 256;
  constexpr int kMaxSegments = 32;
  const int wanted = simt::CeilDiv(kBlocks, simt::CeilDiv(n, kBlockColumns));
  const int useful = simt::CeilDiv(k, kMinK);
  int segments = wanted < useful ? wanted : useful;
  if (segments > kMaxSegments) segments = kMaxSegments;
  return simt::CeilDiv(simt::CeilDiv(k, segments), step_k);
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SEGMENTS_H_
