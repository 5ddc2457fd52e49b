// Attention over paged bfloat16 keys and values by TMA and wgmma (sm_90a): what attention.h
// computes, for one architecture.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_SM90_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_SM90_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kernels/attention.h"
#include "kernels/cuda/simt/tensor_map.h"

namespace tessera::cuda {

// Boxes have kSm90HeadColumns elements of Sm90PageRows rows of a page, swizzled within 128 bytes.
inline constexpr int kSm90HeadColumns = 64;
inline constexpr int kSm90Keys = 64;  // positions that are multiplied at a time

// Of k and v [blocks, kv_heads block_size, head_dim]; used if Sm90LoadsPages.
struct AttentionSm90Maps {
  simt::TensorMap k{};
  simt::TensorMap v{};
};

// Whether pages are loaded by TMA: a box has to begin at 16 bytes, in shared memory at 1024, and
// not to reach into a tile of other keys. Else they are copied, with the same bits.
inline bool Sm90LoadsPages(const AttentionProblem& problem) {
  constexpr int kUnitElements = 8;  // 16 bytes
  constexpr int kLineRows = 8;      // 1024 bytes
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return problem.head_dim % kUnitElements == 0 && problem.block_stride % kUnitElements == 0 &&
         aligned(problem.k) && aligned(problem.v) && problem.block_size % kLineRows == 0 &&
         (problem.block_size % kSm90Keys == 0 || kSm90Keys % problem.block_size == 0);
}
inline int Sm90PageRows(const AttentionProblem& problem) {
  return problem.block_size < kSm90Keys ? problem.block_size : kSm90Keys;
}

// What the operation can use; with less it may take longer, with the same results.
size_t AttentionSm90WorkspaceBytes(const AttentionProblem& problem);

// A query's result has the same bits in any batch and chunk, as LaunchPagedAttention says. Needs a
// GPU of compute capability 9.0 and problem.kv_bf16.
cudaError_t LaunchAttentionSm90(cudaStream_t stream, const AttentionProblem& problem,
                                const AttentionSm90Maps& maps);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_SM90_H_
