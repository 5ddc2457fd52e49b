// Matrix products: one matrix, or one per group of rows (the experts of a layer).
#ifndef TESSERA_KERNELS_CUDA_KERNELS_GEMM_H_
#define TESSERA_KERNELS_CUDA_KERNELS_GEMM_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kernels/workspace.h"
#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

// out[r] = x[row_index[r]] w^T (+ bias). Strides are in elements. x and out may lie at any multiple
// of their elements' size; rows at 16-byte boundaries are read faster.
//
// A weight is row-major [n, k], rows weight_stride elements apart, each at a 16-byte boundary; the
// elements from k up to weight_stride are zeros.
struct GemmProblem {
  bool bf16 = false;  // type of x and weights: bfloat16, products by tensor cores; else fp32 by FMA
  bool out_bf16 = false;
  const void* x = nullptr;
  int64_t x_stride = 0;
  int32_t rows = 0;  // of out; with offsets: at most
  int32_t n = 0;
  int32_t k = 0;
  const void* weight = nullptr;  // of a product without groups
  int64_t weight_stride = 0;     // a multiple of 8
  const float* bias = nullptr;   // [n], optional
  void* out = nullptr;
  int64_t out_stride = 0;

  // Group e is rows [offsets[e], offsets[e + 1]) of out, multiplied by weights[e]. Rows of a group
  // whose weight is null and rows from offsets[num_groups] on are neither read nor written.
  const int32_t* offsets = nullptr;      // [num_groups + 1], null: no groups
  const void* const* weights = nullptr;  // [num_groups], in device memory
  int32_t num_groups = 0;
  const int32_t* row_index = nullptr;  // [rows], null: r itself

  Workspace workspace;  // GemmWorkspaceBytes
};

// What the product can use; with less it takes longer, with the same results.
size_t GemmWorkspaceBytes(const GemmProblem& problem);

// An output row has the same bits whatever else is in the call: K is cut into segments by n and k
// alone, each is summed by itself in ascending order, and the sums are added in order.
cudaError_t LaunchGemm(cudaStream_t stream, const GemmProblem& problem);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_GEMM_H_
