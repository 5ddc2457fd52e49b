// One element of a paged KV cache in either of its types.
#ifndef TESSERA_KERNELS_REF_KV_ELEMENT_H_
#define TESSERA_KERNELS_REF_KV_ELEMENT_H_

#include "kernels/core/tensor.h"

namespace tessera::ref {

// First element of [block, head, offset, :] in `cache` [num_blocks, Nk, block_size, D], where
// slot = block * block_size + offset.
inline int64_t SlotIndex(const TensorView& cache, int64_t slot, int64_t head) {
  const int64_t block = slot / cache.dim(2);
  const int64_t offset = slot % cache.dim(2);
  return block * cache.stride0() + (head * cache.dim(2) + offset) * cache.dim(3);
}

inline float Load(const TensorView& cache, int64_t index) {
  return cache.dtype() == DType::kF32 ? cache.as<float>()[index]
                                      : BF16ToFloat(cache.as<uint16_t>()[index]);
}

inline void Store(const TensorView& cache, int64_t index, float value) {
  if (cache.dtype() == DType::kF32) {
    cache.as<float>()[index] = value;
  } else {
    cache.as<uint16_t>()[index] = FloatToBF16(value);
  }
}

}  // namespace tessera::ref

#endif  // TESSERA_KERNELS_REF_KV_ELEMENT_H_
