// The words of simt/simt.h on a CPU: what CUDA spells as built-in variables and functions.
// Everything here forwards to the emulator. Only for simt.h to include.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_DEVICE_WORDS_H_
#define TESSERA_KERNELS_CUDA_EMULATION_DEVICE_WORDS_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace tessera::simt::emulation {

// What a kernel may ask about the thread that executes it. Constant while a fiber runs.
struct ThreadView {
  uint3 thread_idx, block_idx, block_dim, grid_dim;
  uint32_t cluster_rank, cluster_size;
};
__attribute__((const)) const ThreadView& Self();

// Where a word stands in the source; reports name it.
struct Site {
  const char* file = __builtin_FILE();
  int line = __builtin_LINE();
};

void* SharedBase(size_t bytes, size_t alignment);
void LoadVector(const void* from, void* to, size_t bytes);
void StoreVector(void* to, const void* from, size_t bytes);

// The address in the shared memory of another block of the cluster.
void* MapShared(const void* address, uint32_t rank);

void SyncThreads(Site site);
void SyncWarp(uint32_t mask, Site site);

enum class Shuffle : int { kIndex, kXor, kDown, kUp };
struct ShuffleCall {
  uint32_t mask;
  int operand, width;
  Shuffle mode;
};
uint64_t ShuffleBits(const ShuffleCall& call, uint64_t value, Site site);
uint32_t Ballot(uint32_t mask, bool predicate, Site site);
uint32_t MatchAny(uint32_t mask, uint64_t value, Site site);
enum class WarpReduce : int { kAdd, kMin, kMax, kMinSigned, kMaxSigned, kAnd, kOr };
uint32_t ReduceBits(uint32_t mask, uint32_t value, WarpReduce operation, Site site);

enum class Scope : int { kBlock, kDevice, kSystem };
void Fence(Scope scope);
[[noreturn]] void Trap(const char* what);

template <typename T>
T ShuffleValue(const ShuffleCall& call, T value, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) {
    const uint64_t bits = ShuffleBits(call, __builtin_bit_cast(uint32_t, value), site);
    return __builtin_bit_cast(T, static_cast<uint32_t>(bits));
  } else {
    return __builtin_bit_cast(T, ShuffleBits(call, __builtin_bit_cast(uint64_t, value), site));
  }
}

}  // namespace tessera::simt::emulation

#define threadIdx (::tessera::simt::emulation::Self().thread_idx)
#define blockIdx (::tessera::simt::emulation::Self().block_idx)
#define blockDim (::tessera::simt::emulation::Self().block_dim)
#define gridDim (::tessera::simt::emulation::Self().grid_dim)

// Compilers turn copies of structs into calls of memcpy, which -fsanitize=thread does not see.
// Under these names they reach the emulator. (clang ignores it for the calls that it makes itself.)
#ifdef SIMT_KERNEL_SOURCE
extern "C" void* memcpy(void*, const void*, size_t) __asm__("tessera_simt_memcpy");
extern "C" void* memmove(void*, const void*, size_t) __asm__("tessera_simt_memmove");
extern "C" void* memset(void*, int, size_t) __asm__("tessera_simt_memset");
#endif

inline void __syncthreads(tessera::simt::emulation::Site site = {}) {
  tessera::simt::emulation::SyncThreads(site);
}
inline void __syncwarp(uint32_t mask = 0xffffffffU, tessera::simt::emulation::Site site = {}) {
  tessera::simt::emulation::SyncWarp(mask, site);
}
inline void __threadfence() {
  tessera::simt::emulation::Fence(tessera::simt::emulation::Scope::kDevice);
}
inline void __threadfence_block() {
  tessera::simt::emulation::Fence(tessera::simt::emulation::Scope::kBlock);
}
inline void __threadfence_system() {
  tessera::simt::emulation::Fence(tessera::simt::emulation::Scope::kSystem);
}
inline void __trap() { tessera::simt::emulation::Trap("__trap"); }

template <typename T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32,
              tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::Shuffle;
  return tessera::simt::emulation::ShuffleValue({mask, lane, width, Shuffle::kIndex}, value, site);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32,
                  tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::Shuffle;
  return tessera::simt::emulation::ShuffleValue({mask, lanes, width, Shuffle::kXor}, value, site);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, int lanes, int width = 32,
                   tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::Shuffle;
  return tessera::simt::emulation::ShuffleValue({mask, lanes, width, Shuffle::kDown}, value, site);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, int lanes, int width = 32,
                 tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::Shuffle;
  return tessera::simt::emulation::ShuffleValue({mask, lanes, width, Shuffle::kUp}, value, site);
}

inline uint32_t __ballot_sync(uint32_t mask, bool predicate,
                              tessera::simt::emulation::Site site = {}) {
  return tessera::simt::emulation::Ballot(mask, predicate, site);
}
inline bool __any_sync(uint32_t mask, bool predicate, tessera::simt::emulation::Site site = {}) {
  return tessera::simt::emulation::Ballot(mask, predicate, site) != 0;
}
inline bool __all_sync(uint32_t mask, bool predicate, tessera::simt::emulation::Site site = {}) {
  return tessera::simt::emulation::Ballot(mask, !predicate, site) == 0;
}
template <typename T>
uint32_t __match_any_sync(uint32_t mask, T value, tessera::simt::emulation::Site site = {}) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) {
    return tessera::simt::emulation::MatchAny(mask, __builtin_bit_cast(uint32_t, value), site);
  } else {
    return tessera::simt::emulation::MatchAny(mask, __builtin_bit_cast(uint64_t, value), site);
  }
}

// 32-bit values, signed or not, as on GPUs from sm_80 on.
inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t value,
                                  tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return tessera::simt::emulation::ReduceBits(mask, value, WarpReduce::kAdd, site);
}
inline int __reduce_add_sync(uint32_t mask, int value, tessera::simt::emulation::Site site = {}) {
  return static_cast<int>(__reduce_add_sync(mask, static_cast<uint32_t>(value), site));
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value,
                                  tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return tessera::simt::emulation::ReduceBits(mask, value, WarpReduce::kMax, site);
}
inline int __reduce_max_sync(uint32_t mask, int value, tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return static_cast<int>(tessera::simt::emulation::ReduceBits(mask, static_cast<uint32_t>(value),
                                                               WarpReduce::kMaxSigned, site));
}
inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t value,
                                  tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return tessera::simt::emulation::ReduceBits(mask, value, WarpReduce::kMin, site);
}
inline int __reduce_min_sync(uint32_t mask, int value, tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return static_cast<int>(tessera::simt::emulation::ReduceBits(mask, static_cast<uint32_t>(value),
                                                               WarpReduce::kMinSigned, site));
}
inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t value,
                                 tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return tessera::simt::emulation::ReduceBits(mask, value, WarpReduce::kOr, site);
}
inline uint32_t __reduce_and_sync(uint32_t mask, uint32_t value,
                                  tessera::simt::emulation::Site site = {}) {
  using tessera::simt::emulation::WarpReduce;
  return tessera::simt::emulation::ReduceBits(mask, value, WarpReduce::kAnd, site);
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}

#endif  // TESSERA_KERNELS_CUDA_EMULATION_DEVICE_WORDS_H_
