// Matrix products of bfloat16 by TMA and wgmma (sm_90a): what gemm.h computes, for one
// architecture.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_GEMM_SM90_H_
#define TESSERA_KERNELS_CUDA_KERNELS_GEMM_SM90_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kernels/gemm.h"
#include "kernels/cuda/simt/tensor_map.h"

namespace tessera::cuda {

// Boxes have kSm90BoxColumns elements of a row, swizzled within 128 bytes; those of weights have
// kSm90WeightRows rows. What lies outside of a matrix [n, k] or [rows, k] is loaded as zeros.
inline constexpr int kSm90BoxColumns = 64;
inline constexpr int kSm90WeightRows = 128;

struct GemmSm90Maps {
  simt::TensorMap x{};                       // used if Sm90LoadsX
  simt::TensorMap weight{};                  // of a product without groups
  const simt::TensorMap* weights = nullptr;  // [num_groups] in device memory; those that are null
                                             // in GemmProblem::weights are not looked at
};

// Whether x is loaded by TMA. Rows of groups are copied: TMA cannot gather them, nor end with a
// group and leave the rows behind the last one alone. So are rows that do not lie at 16-byte
// boundaries. Both give the same bits.
inline bool Sm90LoadsX(const GemmProblem& problem) {
  constexpr int64_t kUnitBytes = 16;
  const int64_t stride_bytes = problem.x_stride * static_cast<int64_t>(sizeof(simt::Bf16));
  return problem.offsets == nullptr && problem.row_index == nullptr && problem.rows > 0 &&
         reinterpret_cast<uintptr_t>(problem.x) % kUnitBytes == 0 && stride_bytes > 0 &&
         stride_bytes % kUnitBytes == 0;
}
// Rows of x in a tile, and so of a box of `x`. Groups differ in size: twice the average holds most
// of them.
inline int Sm90TileRows(const GemmProblem& problem) {
  const int64_t wanted =
      problem.offsets == nullptr
          ? problem.rows
          : simt::CeilDiv<int64_t>(2 * int64_t{problem.rows}, problem.num_groups);
  for (int rows = 8; rows <= 64; rows *= 2) {
    if (wanted <= rows) return rows;
  }
  return 128;
}

// What the product can use; with less it takes longer, with the same results.
size_t GemmSm90WorkspaceBytes(const GemmProblem& problem, int multiprocessors);

// A row of the result has the same bits whatever else is in the call, as LaunchGemm says. Needs a
// GPU of compute capability 9.0 and problem.bf16.
cudaError_t LaunchGemmSm90(cudaStream_t stream, const GemmProblem& problem,
                           const GemmSm90Maps& maps, int multiprocessors);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_GEMM_SM90_H_
