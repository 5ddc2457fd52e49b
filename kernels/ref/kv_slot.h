// Where a slot of the paged KV cache lies.
#ifndef TESSERA_KERNELS_REF_KV_SLOT_H_
#define TESSERA_KERNELS_REF_KV_SLOT_H_

#include "kernels/core/tensor.h"

namespace tessera::ref {

// First element of [block, head, offset, :] in `cache` [num_blocks, Nk, block_size, D], where
// slot = block * block_size + offset.
inline int64_t SlotIndex(const TensorView& cache, int64_t slot, int64_t head) {
  const int64_t block = slot / cache.dim(2);
  const int64_t offset = slot % cache.dim(2);
  return block * cache.stride0() + (head * cache.dim(2) + offset) * cache.dim(3);
}

}  // namespace tessera::ref

#endif  // TESSERA_KERNELS_REF_KV_SLOT_H_
