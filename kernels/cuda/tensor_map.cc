#include "kernels/cuda/tensor_map.h"

#include <cuda.h>

#include <cstring>

namespace tessera::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function. Programs are linked without the driver, so that they start without one.
struct Encoder {
  cudaError_t error = cudaSuccess;
  Encode encode = nullptr;

  Encoder() {
    constexpr unsigned kVersion = 12000;  // that of the function's signature
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion,
                                             cudaEnableDefault, &result);
    if (error == cudaSuccess && result != cudaDriverEntryPointSuccess) {
      error = cudaErrorSymbolNotFound;
    }
    encode = reinterpret_cast<Encode>(function);
  }
};

// Of elements of bfloat16; innermost first. The first stride is that of elements.
template <int kRank>
struct Boxes {
  const void* data;
  int64_t sizes[kRank];
  int64_t strides[kRank];
  int32_t box_rows;
};

template <int kRank>
cudaError_t EncodeBoxes(const Boxes<kRank>& boxes, simt::TensorMap* map) {
  static const Encoder encoder;
  if (encoder.error != cudaSuccess) return encoder.error;
  constexpr cuuint32_t kBoxColumns = 64;
  constexpr cuuint64_t kElementBytes = 2;
  cuuint64_t dims[kRank];
  cuuint64_t strides[kRank];
  cuuint32_t box[kRank];
  cuuint32_t element_strides[kRank];
  for (int d = 0; d < kRank; ++d) {
    dims[d] = static_cast<cuuint64_t>(boxes.sizes[d]);
    strides[d] = static_cast<cuuint64_t>(boxes.strides[d]) * kElementBytes;
    box[d] = d == 0 ? kBoxColumns : d == 1 ? static_cast<cuuint32_t>(boxes.box_rows) : 1;
    element_strides[d] = 1;
  }
  CUtensorMap encoded;
  const CUresult result = encoder.encode(
      &encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(boxes.data), dims,
      strides + 1, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return cudaErrorInvalidValue;
  static_assert(sizeof(encoded) == sizeof(*map) &&
                alignof(CUtensorMap) <= alignof(simt::TensorMap));
  std::memcpy(map, &encoded, sizeof(encoded));
  return cudaSuccess;
}

}  // namespace

cudaError_t EncodeTensorMap(const BoxedMatrix& matrix, simt::TensorMap* map) {
  return EncodeBoxes<2>({.data = matrix.data,
                         .sizes = {matrix.cols, matrix.rows},
                         .strides = {1, matrix.stride},
                         .box_rows = matrix.box_rows},
                        map);
}

cudaError_t EncodeTensorMap(const BoxedPages& pages, simt::TensorMap* map) {
  return EncodeBoxes<3>({.data = pages.data,
                         .sizes = {pages.cols, pages.rows, pages.pages},
                         .strides = {1, pages.cols, pages.page_stride},
                         .box_rows = pages.box_rows},
                        map);
}

}  // namespace tessera::cuda
