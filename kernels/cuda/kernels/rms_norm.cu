// RMSNorm, with the addition of a residual before it. Bytes of a row: 2 cols read (4 with a
// residual) and cols written (2 cols), each once; a row of up to 8,192 columns stays in registers
// between the sum and the result.
#include "kernels/cuda/kernels/row_access.h"
#include "kernels/cuda/kernels/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;

struct NormShared {
  float sums[kMaxWarps];
};

template <typename T>
struct NormRows {
  RowsOf<T> x;
  RowsOf<const T> add;  // data may be null
  const float* weight;
  RowsOf<T> out;
  int32_t cols;
  float eps;
  bool aligned;
};

// A group of the residual stream as it is stored, after the addition.
template <typename T>
SIMT_DEVICE void LoadResidual(float (&values)[kGroup], const NormRows<T>& rows, int64_t row,
                              int at) {
  LoadColumns(values, rows.x[row], at, rows.cols, rows.aligned);
  if (rows.add.data == nullptr) return;
  float added[kGroup];
  LoadColumns(added, rows.add[row], at, rows.cols, rows.aligned);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) values[i] = Stored<T>(values[i] + added[i]);
  StoreColumns(rows.x[row], at, rows.cols, rows.aligned, values);
}

// The sum over the block, in an order that depends on the number of threads only.
SIMT_DEVICE float BlockSum(float value) {
  NormShared& shared = simt::SharedMemory<NormShared>();
  const float sum = WarpSum(value);
  if (threadIdx.x % kWarpSize == 0) shared.sums[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  float total = 0.0F;
  for (unsigned warp = 0; warp < blockDim.x / kWarpSize; ++warp) total += shared.sums[warp];
  return total;
}

// One block per row. kOnce: each thread has one group of columns at most.
template <typename T, bool kOnce>
SIMT_KERNEL(kMaxThreads, 1)
RmsNormKernel(NormRows<T> rows) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int64_t row = blockIdx.x;
  const int first = static_cast<int>(threadIdx.x) * kGroup;
  const int step = static_cast<int>(blockDim.x) * kGroup;
  float values[kGroup];
  float sum = 0.0F;
  for (int at = first; at < rows.cols; at += step) {
    LoadResidual(values, rows, row, at);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) sum += values[i] * values[i];
    if (kOnce) break;
  }
  const float scale = simt::Rsqrt(BlockSum(sum) / static_cast<float>(rows.cols) + rows.eps);
  for (int at = first; at < rows.cols; at += step) {
    if (!kOnce) LoadColumns(values, rows.x[row], at, rows.cols, rows.aligned);
    float weight[kGroup];
    LoadColumns(weight, rows.weight, at, rows.cols, rows.aligned);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) values[i] = values[i] * scale * weight[i];
    StoreColumns(rows.out[row], at, rows.cols, rows.aligned, values);
    if (kOnce) break;
  }
}

template <typename T>
cudaError_t Launch(cudaStream_t stream, const RmsNormLaunch& launch) {
  const NormRows<T> rows{.x = As<T>(launch.x),
                         .add = As<const T>(launch.add),
                         .weight = launch.weight,
                         .out = As<T>(launch.out),
                         .cols = launch.cols,
                         .eps = launch.eps,
                         .aligned = Aligned(launch.x) && Aligned(launch.out) &&
                                    (launch.add.data == nullptr || Aligned(launch.add)) &&
                                    Aligned(ConstRows{.data = launch.weight})};
  const int warps = CeilDiv(CeilDiv(launch.cols, kGroup), kWarpSize);
  const bool once = warps <= kMaxWarps;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(launch.rows)),
                          .block = dim3((once ? warps : kMaxWarps) * kWarpSize),
                          .shared_bytes = sizeof(NormShared),
                          .stream = stream,
                          .dependent = true};
  return once ? SIMT_LAUNCH(shape, (RmsNormKernel<T, true>), rows)
              : SIMT_LAUNCH(shape, (RmsNormKernel<T, false>), rows);
}

}  // namespace

cudaError_t LaunchRmsNorm(cudaStream_t stream, const RmsNormLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  return launch.x.element == Element::kF32 ? Launch<float>(stream, launch)
                                           : Launch<Bf16>(stream, launch);
}

}  // namespace tessera::cuda
