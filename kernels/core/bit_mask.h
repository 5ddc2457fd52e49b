// Sets of token ids as bits: id i is bit i % 32 of word i / 32. Words are stored as DType::kI32.
#ifndef TESSERA_KERNELS_CORE_BIT_MASK_H_
#define TESSERA_KERNELS_CORE_BIT_MASK_H_

#include <cstdint>

namespace tessera {

// Words of a mask over `size` ids; bits beyond the last id mean nothing.
constexpr int64_t MaskWords(int64_t size) { return (size + 31) / 32; }

inline bool IsInMask(const int32_t* words, int64_t id) {
  return (static_cast<uint32_t>(words[id / 32]) >> (id % 32) & 1U) != 0;
}

inline void AddToMask(int32_t* words, int64_t id) {
  words[id / 32] = static_cast<int32_t>(static_cast<uint32_t>(words[id / 32]) | 1U << (id % 32));
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_BIT_MASK_H_
