// Rows of float32 or bfloat16 elements as launchers take them.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_MATRIX_H_
#define TESSERA_KERNELS_CUDA_KERNELS_MATRIX_H_

#include <cstdint>

namespace tessera::cuda {

enum class Element : int32_t { kF32, kBf16 };

template <typename Void>
struct BasicRows {
  Void* data = nullptr;
  int64_t stride = 0;  // elements between rows
  Element element = Element::kF32;
};
using Rows = BasicRows<void>;
using ConstRows = BasicRows<const void>;

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_MATRIX_H_
