// Device memory of all emulated GPUs: one range of addresses each. For every byte: allocated,
// written; for every word of 4 bytes: who has stored and loaded it. Words whose bytes differ in
// that are split.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_GLOBAL_MEMORY_H_
#define TESSERA_KERNELS_CUDA_EMULATION_GLOBAL_MEMORY_H_

#include <string>

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

inline constexpr int kMaxDevices = 16;
inline constexpr size_t kDeviceWindow = size_t{32} << 30;  // addresses, which are never used again

unsigned char* GlobalWindows();
inline bool IsGlobal(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(GlobalWindows()) < kMaxDevices * kDeviceWindow;
}

// One access by the running thread.
struct GlobalAccess {
  const void* pointer;
  size_t bytes;
  bool write;
  bool atomic = false;
  bool modifies = false;  // the load of an atomic that then stores
};
void CheckGlobal(Thread* t, const GlobalAccess& access);

// Begins an operation; its `clusters` get serial numbers.
OperationRecord* RecordOperation(const char* name, const StreamPosition& at, uint32_t clusters,
                                 bool is_kernel);
// The first serial number that belongs to an operation which may still be unknown to somebody.
uint32_t FirstOpenSerial();

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_GLOBAL_MEMORY_H_
