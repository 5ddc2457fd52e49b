// Sums over ranks in rank order. Every summand is read once and every sum is written once.
#include "kernels/cuda/kernels/rank_sum.h"
#include "kernels/cuda/kernels/row_access.h"

namespace tessera::cuda {
namespace {

constexpr int kBlockElements = kMaxRowThreads * kGroup;

template <typename T>
struct RankArrays {
  RowsOf<const T> parts;
  const T* own;
  int32_t own_rank;
  int32_t ranks;
  T* out;
  int64_t count;
  bool aligned;

  SIMT_DEVICE const T* operator[](int32_t rank) const {
    return own != nullptr && rank == own_rank ? own : parts[rank];
  }
};

template <typename T>
SIMT_KERNEL(kMaxRowThreads, 4)
RankSumKernel(RankArrays<T> arrays) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int64_t begin = int64_t{blockIdx.x} * kBlockElements;
  const int64_t left = arrays.count - begin;
  const int cols = left < kBlockElements ? static_cast<int>(left) : kBlockElements;
  const int at = static_cast<int>(threadIdx.x) * kGroup;
  if (at >= cols) return;
  float sums[kGroup];
  LoadColumns(sums, arrays[0] + begin, at, cols, arrays.aligned);
  for (int32_t rank = 1; rank < arrays.ranks; ++rank) {
    float values[kGroup];
    LoadColumns(values, arrays[rank] + begin, at, cols, arrays.aligned);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) sums[i] += values[i];
  }
  StoreColumns(arrays.out + begin, at, cols, arrays.aligned, sums);
}

bool IsAligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

template <typename T>
cudaError_t LaunchAs(const LaunchShape& shape, const RankSumLaunch& launch) {
  const RankArrays<T> arrays{
      .parts = As<const T>(launch.parts),
      .own = static_cast<const T*>(launch.own),
      .own_rank = launch.own_rank,
      .ranks = launch.ranks,
      .out = static_cast<T*>(launch.out),
      .count = launch.count,
      .aligned = Aligned(launch.parts) && IsAligned(launch.own) && IsAligned(launch.out)};
  return SIMT_LAUNCH(shape, RankSumKernel<T>, arrays);
}

}  // namespace

cudaError_t LaunchRankSum(cudaStream_t stream, const RankSumLaunch& launch) {
  if (launch.count == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(launch.count, kBlockElements));
  const LaunchShape shape{
      .grid = dim3(blocks), .block = dim3(kMaxRowThreads), .stream = stream, .dependent = true};
  return launch.parts.element == Element::kF32 ? LaunchAs<float>(shape, launch)
                                               : LaunchAs<Bf16>(shape, launch);
}

}  // namespace tessera::cuda
