#include <cuda.h>
#include <cuda_runtime.h>

#include <cstring>

#include "kernels/cuda/fake/runtime.h"
#include "kernels/cuda/simt/ptx.h"

using tessera::simt::TensorMap;
using tessera::simt::emulation::TensorMapFields;
using tessera::simt::fake::Failed;

TESSERA_CUDA_API_BEGIN
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* dims, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion /*promotion*/,
                                CUtensorMapFloatOOBfill fill) {
  TensorMapFields fields{};
  const bool known =
      type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
      fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE &&
      (swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || swizzle == CU_TENSOR_MAP_SWIZZLE_128B) &&
      rank >= 1 && rank <= sizeof(fields.box) / sizeof(fields.box[0]);
  if (!known) return CUDA_ERROR_INVALID_VALUE;
  fields.rank = static_cast<uint8_t>(rank);
  fields.element_bytes = 2;
  fields.swizzle_bytes = swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128 : 0;
  fields.base = address;
  for (cuuint32_t d = 0; d < rank; ++d) {
    if (element_strides[d] != 1) return CUDA_ERROR_INVALID_VALUE;
    fields.dims[d] = dims[d];
    fields.box[d] = box[d];
    if (d > 0) fields.strides[d] = strides[d - 1];
  }
  TensorMap encoded{};
  if (!tessera::simt::emulation::EncodeTensorMap(&encoded, fields).empty()) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  static_assert(sizeof(*map) == sizeof(encoded));
  std::memcpy(map, &encoded, sizeof(encoded));
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function,
                                             unsigned /*version*/, unsigned long long /*flags*/,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = nullptr;
  const bool found = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  if (result != nullptr) {
    *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  }
  if (!found) return Failed(cudaErrorSymbolNotFound);
  *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  return cudaSuccess;
}
TESSERA_CUDA_API_END
