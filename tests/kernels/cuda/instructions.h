// One kernel per instruction of ptx.h whose result is a value.
#ifndef TESSERA_TESTS_KERNELS_CUDA_INSTRUCTIONS_H_
#define TESSERA_TESTS_KERNELS_CUDA_INSTRUCTIONS_H_

#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/tensor_map.h"

namespace tessera::cuda {

// out [16, 8] = a [16, K] b [8, K]^T: rows of 32 bytes. K 16 (bf16) or 32 (one byte).
enum class MmaType { kBf16, kInt8, kE4m3 };
cudaError_t MmaTile(cudaStream_t stream, MmaType type, const uint32_t* a, const uint32_t* b,
                    void* out);
// out[lane][matrix] of four 8 x 8 matrices of 16 bits.
cudaError_t LdMatrixTile(cudaStream_t stream, bool trans, const uint16_t* matrices, uint32_t* out);
// out [64, n] = a [64, 64] b^T with the first n (8, 16, 32, 64 or 128) rows of b [128, 64], both
// loaded by TMA with the 128-byte swizzle.
struct WgmmaMaps {
  simt::TensorMap a, b;
};
cudaError_t WgmmaTile(cudaStream_t stream, int n, const WgmmaMaps& maps, float* out);

// out [64, n] = a [64, kPanelRows] b with the first n (64 or 128) columns of b [kPanelRows, 128]: a
// in registers, b loaded by TMA in panels of 64 columns.
inline constexpr int kPanelRows = 32;
cudaError_t WgmmaPanelsTile(cudaStream_t stream, int n, const uint32_t* a, const simt::TensorMap& b,
                            float* out);

// What lane l of a warp gets from v[l] = 3 l + 1, by operation; out [kWarpWords][32].
inline constexpr int kWarpWords = 15;
cudaError_t WarpWords(cudaStream_t stream, uint64_t* out);

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_KERNELS_CUDA_INSTRUCTIONS_H_
