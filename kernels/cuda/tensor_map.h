// Tensor maps: what TMA has to know about a matrix. The driver encodes them, on the host.
#ifndef TESSERA_KERNELS_CUDA_TENSOR_MAP_H_
#define TESSERA_KERNELS_CUDA_TENSOR_MAP_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/simt/tensor_map.h"

namespace tessera::cuda {

// A bfloat16 matrix [rows, cols], row-major, at a 16-byte boundary as is each of its rows, loaded
// in boxes of box_rows rows and 64 columns. TMA permutes the 16-byte pieces of a box as wgmma with
// 128-byte swizzles reads them; what lies outside of the matrix becomes zeros.
struct BoxedMatrix {
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;    // elements between rows, a multiple of 8
  int32_t box_rows = 0;  // at most 256
};

// The same of pages [pages, rows, cols] of rows side by side, with page_stride elements between
// pages; boxes lie in one page each.
struct BoxedPages {
  const void* data = nullptr;
  int64_t pages = 0;
  int64_t rows = 0;
  int64_t cols = 0;         // a multiple of 8
  int64_t page_stride = 0;  // too
  int32_t box_rows = 0;     // at most 256
};

// cudaErrorInvalidValue: no such matrix; cudaErrorSymbolNotFound: the driver is older than 12.0.
// The map holds the address, nothing of the contents. Any thread.
cudaError_t EncodeTensorMap(const BoxedMatrix& matrix, simt::TensorMap* map);
cudaError_t EncodeTensorMap(const BoxedPages& pages, simt::TensorMap* map);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_TENSOR_MAP_H_
