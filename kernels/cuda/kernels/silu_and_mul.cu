// The gated activation. Bytes of a row: 2 cols read, cols written, each once.
#include "kernels/cuda/kernels/row_access.h"
#include "kernels/cuda/kernels/rows.h"

namespace tessera::cuda {
namespace {

template <typename T>
struct SiluRows {
  RowsOf<const T> x;
  const int32_t* num_rows;
  RowsOf<T> out;
  int32_t cols;
  bool aligned;
};

template <typename T>
SIMT_KERNEL(kMaxRowThreads, 4)
SiluAndMulKernel(SiluRows<T> rows) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int64_t row = blockIdx.x;
  const int at = ColumnGroup();
  if (at >= rows.cols || (rows.num_rows != nullptr && row >= *rows.num_rows)) return;
  float gate[kGroup];
  float up[kGroup];
  LoadColumns(gate, rows.x[row], at, rows.cols, rows.aligned);
  LoadColumns(up, rows.x[row] + rows.cols, at, rows.cols, rows.aligned);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    up[i] *= gate[i] / (1.0F + simt::Exp(-gate[i]));
  }
  StoreColumns(rows.out[row], at, rows.cols, rows.aligned, up);
}

template <typename T>
cudaError_t Launch(cudaStream_t stream, const SiluAndMulLaunch& launch) {
  const bool upper_half_aligned = launch.cols % kGroup == 0;
  const SiluRows<T> rows{.x = As<const T>(launch.x),
                         .num_rows = launch.num_rows,
                         .out = As<T>(launch.out),
                         .cols = launch.cols,
                         .aligned = upper_half_aligned && Aligned(launch.x) && Aligned(launch.out)};
  return SIMT_LAUNCH(RowShape(stream, launch.rows, launch.cols), SiluAndMulKernel<T>, rows);
}

}  // namespace

cudaError_t LaunchSiluAndMul(cudaStream_t stream, const SiluAndMulLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  return launch.x.element == Element::kF32 ? Launch<float>(stream, launch)
                                           : Launch<Bf16>(stream, launch);
}

}  // namespace tessera::cuda
