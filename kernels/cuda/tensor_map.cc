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

}  // namespace

cudaError_t EncodeTensorMap(const BoxedMatrix& matrix, simt::TensorMap* map) {
  static const Encoder encoder;
  if (encoder.error != cudaSuccess) return encoder.error;
  constexpr cuuint32_t kBoxColumns = 64;
  constexpr int64_t kElementBytes = 2;
  const cuuint64_t dims[] = {static_cast<cuuint64_t>(matrix.cols),
                             static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(matrix.stride * kElementBytes)};
  const cuuint32_t box[] = {kBoxColumns, static_cast<cuuint32_t>(matrix.box_rows)};
  const cuuint32_t element_strides[] = {1, 1};
  CUtensorMap encoded;
  const CUresult result = encoder.encode(
      &encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix.data), dims, strides,
      box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return cudaErrorInvalidValue;
  static_assert(sizeof(encoded) == sizeof(*map) &&
                alignof(CUtensorMap) <= alignof(simt::TensorMap));
  std::memcpy(map, &encoded, sizeof(encoded));
  return cudaSuccess;
}

}  // namespace tessera::cuda
