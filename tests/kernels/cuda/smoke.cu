#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/ptx.h"
#include "tests/kernels/cuda/smoke.h"
namespace tessera::cuda {
using namespace simt;
namespace {
struct SumShared {
  float sums[8];
};
template <int kBug>
SIMT_KERNEL(256, 1)
SumKernel(const float* in, float* out, int n) {
  SumShared& shared = SharedMemory<SumShared>();
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int i = thread; i < n; i += 256) sum += in[i];
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kFullMask, sum, lanes);
  if (thread % 32 == 0) shared.sums[thread / 32] = sum;
  if (kBug != 1) __syncthreads();
  float total = 0;
  for (int i = 0; i < 8; ++i) total += shared.sums[i];
  out[thread] = total;
}
}  // namespace
cudaError_t Sum(cudaStream_t stream, int bug, const float* in, float* out, int n) {
  const LaunchShape shape{
      .grid = dim3(1), .block = dim3(256), .shared_bytes = sizeof(SumShared), .stream = stream};
  if (bug == 1) return SIMT_LAUNCH(shape, SumKernel<1>, in, out, n);
  return SIMT_LAUNCH(shape, SumKernel<0>, in, out, n);
}
}  // namespace tessera::cuda
