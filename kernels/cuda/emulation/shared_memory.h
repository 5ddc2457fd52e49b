// Shared memory: one window of addresses per resident block, and for every byte who has stored and
// loaded it.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_SHARED_MEMORY_H_
#define TESSERA_KERNELS_CUDA_EMULATION_SHARED_MEMORY_H_

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

inline constexpr size_t kSharedWindow = size_t{256} << 10;
inline constexpr size_t kSharedOrigin = 1024;  // where dynamic shared memory begins in its window
inline constexpr size_t kSharedWindows = 640;  // for grids of 16 GPUs, and some streams more

// One access by an agent.
struct SharedAccess {
  size_t offset;
  size_t bytes;
  bool write;
  Epoch own;              // with kAtomicEpoch: atomic
  const uint32_t* clock;  // what the agent knows
  // For the async proxy: which of the generic stores are visible to it; null: generic access.
  const uint32_t* proxied = nullptr;
  bool modifies = false;  // the load of an atomic that then stores
};
void CheckShared(Block& block, const SharedAccess& access);

extern unsigned char* shared_windows;
inline unsigned char* SharedWindows() { return shared_windows; }
void ReserveSharedWindows();
inline bool IsShared(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(SharedWindows()) < kSharedWindows * kSharedWindow;
}
// A block of the running thread's cluster.
Block& BlockOfRank(uint32_t rank);
// The block of the running thread's cluster whose memory holds the address.
Block* SharedBlockAt(uintptr_t address, size_t* offset);
// Offset in the window of the running thread's own block.
uint32_t SharedOffset(const void* pointer);

// A window for a block that starts (slot, shared, shadow), filled with NaN; and its end.
void TakeWindow(Block* block, size_t bytes);
void GiveWindow(Block* block);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_SHARED_MEMORY_H_
