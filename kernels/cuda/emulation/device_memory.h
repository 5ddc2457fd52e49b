// The bytes of device memory and what is known of them; allocations.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_DEVICE_MEMORY_H_
#define TESSERA_KERNELS_CUDA_EMULATION_DEVICE_MEMORY_H_

#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/report.h"

namespace tessera::simt::emulation {

enum ByteState : unsigned char { kNotAllocated = 0, kAllocated = 1, kWritten = 2 };

// Who accessed a word last: serial number of the cluster, epoch. 0: nobody.
using Cell = uint64_t;
inline Cell CellOf(uint32_t serial, Epoch e) { return uint64_t{serial} << 32 | e; }
inline uint32_t SerialOf(Cell cell) { return static_cast<uint32_t>(cell >> 32); }

unsigned char* ByteStates();  // one per byte
Cell* WrittenCells();         // one per word
Cell* ReadCells();
inline size_t GlobalOffset(const void* pointer) {
  return static_cast<size_t>(static_cast<const unsigned char*>(pointer) - GlobalWindows());
}

// A word whose bytes were not all accessed together: its cells, per byte.
struct SplitWord {
  Cell written[4];
  Cell read[4];
};
inline bool IsSplit(Cell written) { return SerialOf(written) == 0xffffffffU; }
SplitWord& SplitOf(Cell written);
void Split(Cell* written, Cell* read);
void Merge(Cell* written, Cell* read);  // of a word that was stored whole

bool PeerAccessEnabled(int device, int peer);

// "store of 4 bytes at offset 1024 of an allocation of 1000 bytes of GPU 0"
ShortText DescribeAccess(const GlobalAccess& access);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_DEVICE_MEMORY_H_
