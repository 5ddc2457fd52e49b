// Causal attention of query rows over keys and values in pages.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/kernels/workspace.h"
#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

inline constexpr int kMaxHeadDim = 128;

// PagedAttentionArgs of kernels/ops.h. Strides are in elements. All pointers to data may lie at any
// multiple of their elements' size; 16-byte boundaries (also of rows of k and v) are read faster.
struct AttentionProblem {
  bool act_bf16 = false;  // q and out: bfloat16, else fp32
  // k and v: bfloat16, by tensor cores (queries and probabilities are rounded); else fp32, by FMA.
  bool kv_bf16 = false;
  const void* q = nullptr;  // [tokens, q_heads head_dim]
  int64_t q_stride = 0;
  const void* k = nullptr;  // [blocks, kv_heads, block_size, head_dim]
  const void* v = nullptr;
  int64_t block_stride = 0;               // of k and of v, between blocks
  const int32_t* block_tables = nullptr;  // [sequences, ...]
  int64_t table_stride = 0;
  const int32_t* cu_seqlens = nullptr;    // [sequences + 1]
  const int32_t* context_lens = nullptr;  // [sequences]
  void* out = nullptr;                    // [tokens, q_heads head_dim]
  int64_t out_stride = 0;
  int32_t tokens = 0;
  int32_t sequences = 0;
  int32_t max_context = 0;  // no context is longer
  int32_t q_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;  // at most kMaxHeadDim
  int32_t block_size = 0;
  int32_t window = 0;
  float scale = 1.0F;

  Workspace workspace;  // AttentionWorkspaceBytes
};

// What the operation can use; with less it may take longer, with the same results.
size_t AttentionWorkspaceBytes(const AttentionProblem& problem);

// A query's result has the same bits in any batch, in a prompt chunk of any size, and wherever the
// pages lie: positions are taken in ascending order, 256 of them (a span, which begins at a
// multiple of 256) into a softmax of their own, and the spans are merged in ascending order.
cudaError_t LaunchPagedAttention(cudaStream_t stream, const AttentionProblem& problem);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_H_
