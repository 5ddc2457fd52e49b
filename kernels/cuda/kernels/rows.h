// Launchers of operations that treat each row for itself: embedding, norms, rotation, activation,
// copies. What they compute: kernels/ops.h. Strides count elements. A launch of no rows is nothing.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ROWS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ROWS_H_

#include <cstdint>

#include "kernels/cuda/kernels/matrix.h"
#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

struct EmbedLaunch {
  const int32_t* ids = nullptr;     // [rows]
  const int32_t* source = nullptr;  // [rows] or null
  const int32_t* drawn = nullptr;
  ConstRows table;  // [vocab, cols]
  int32_t vocab = 0;
  int32_t vocab_begin = 0;
  Rows out;  // [rows, cols]
  int64_t rows = 0;
  int32_t cols = 0;
};
cudaError_t LaunchEmbed(cudaStream_t stream, const EmbedLaunch& launch);

struct RmsNormLaunch {
  Rows x;         // [rows, cols]
  ConstRows add;  // [rows, cols] of x's type, or without data
  const float* weight = nullptr;
  Rows out;  // [rows, cols] of x's type
  int64_t rows = 0;
  int32_t cols = 0;
  float eps = 0;
};
cudaError_t LaunchRmsNorm(cudaStream_t stream, const RmsNormLaunch& launch);

struct QkNormRopeLaunch {
  Rows qkv;  // [rows, (q_heads + 2 kv_heads) head_dim]
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* cos_sin = nullptr;
  int64_t cos_sin_stride = 0;
  const int32_t* positions = nullptr;  // [rows]
  const int32_t* slots = nullptr;      // [rows]
  Rows k_cache;                        // stride: that of a block
  Rows v_cache;
  int64_t rows = 0;
  int32_t q_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_size = 0;
  float eps = 0;
};
cudaError_t LaunchQkNormRope(cudaStream_t stream, const QkNormRopeLaunch& launch);

struct SiluAndMulLaunch {
  ConstRows x;                        // [rows, 2 cols]
  const int32_t* num_rows = nullptr;  // or null
  Rows out;                           // [rows, cols] of x's type
  int64_t rows = 0;
  int32_t cols = 0;
};
cudaError_t LaunchSiluAndMul(cudaStream_t stream, const SiluAndMulLaunch& launch);

// Rows as bytes.
struct GatherRowsLaunch {
  const void* x = nullptr;
  int64_t x_stride = 0;           // bytes
  const int32_t* rows = nullptr;  // [count], -1: zeros
  void* out = nullptr;
  int64_t out_stride = 0;  // bytes
  int64_t count = 0;
  int64_t row_bytes = 0;
};
cudaError_t LaunchGatherRows(cudaStream_t stream, const GatherRowsLaunch& launch);

// Blocks of a cache as bytes, an even number each.
struct CopyBlocksLaunch {
  void* cache = nullptr;  // [parts, blocks, block_bytes]
  int64_t parts = 0;
  int64_t blocks = 0;
  int64_t block_bytes = 0;
  const int32_t* from = nullptr;  // [pairs]
  const int32_t* to = nullptr;    // [pairs]
  int64_t pairs = 0;
};
cudaError_t LaunchCopyBlocks(cudaStream_t stream, const CopyBlocksLaunch& launch);

struct ConcatColumnsLaunch {
  const float* shards = nullptr;  // [shards, rows, width]
  float* out = nullptr;           // [rows, cols]
  int64_t out_stride = 0;
  int64_t rows = 0;
  int32_t width = 0;
  int32_t cols = 0;
};
cudaError_t LaunchConcatColumns(cudaStream_t stream, const ConcatColumnsLaunch& launch);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ROWS_H_
