// The bytes of device memory and what is known of them; allocations.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_DEVICE_MEMORY_H_
#define TESSERA_KERNELS_CUDA_EMULATION_DEVICE_MEMORY_H_

#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/report.h"

namespace tessera::simt::emulation {

enum ByteState : unsigned char { kNotAllocated = 0, kAllocated = 1, kWritten = 2 };

// Who accessed a word: serial number of the cluster, epoch. 0: nobody.
using Cell = uint64_t;
inline Cell CellOf(uint32_t serial, Epoch e) { return uint64_t{serial} << 32 | e; }
inline uint32_t SerialOf(Cell cell) { return static_cast<uint32_t>(cell >> 32); }

extern unsigned char* byte_states;  // one per byte
inline unsigned char* ByteStates() { return byte_states; }
inline size_t GlobalOffset(const void* pointer) {
  return static_cast<size_t>(static_cast<const unsigned char*>(pointer) - GlobalWindows());
}

// The history of a word, or of a byte of a split one: the last store, and accesses that a later one
// may have to be ordered after too: loads, and what atomics have overtaken. Filled from the first
// on.
inline constexpr int kOthers = 4;
struct History {
  Cell* written;
  Cell* others[kOthers];
};
// One cell per word: stores (plane 0), or the k-th others.
extern Cell* cell_planes;
inline constexpr size_t kCellsPerPlane = kMaxDevices * kDeviceWindow / 4;
inline History HistoryOf(size_t word) {
  History history{cell_planes + word, {}};
  for (int i = 0; i < kOthers; ++i) {
    history.others[i] = cell_planes + static_cast<size_t>(1 + i) * kCellsPerPlane + word;
  }
  return history;
}

// A word whose bytes were not all accessed together is split: a history per byte.
inline bool IsSplit(const History& history) { return SerialOf(*history.written) == 0xffffffffU; }
void Split(const History& word);
History ByteOf(const History& word, size_t byte);
void Merge(const History& word);  // of a word that was stored whole

// Most memory is written by few operations, much of it never by a kernel. As long as all accesses
// to a chunk were stores of the whole chunk by copies and fills, it is plain: one record holds for
// all of its bytes and words, whose own are not kept up (but their `others` are zero).
inline constexpr size_t kChunkBytes = 4096;
struct Chunk {
  Cell written = 0;  // plain: the last store
  ByteState state = kNotAllocated;
  bool plain = false;
  uint16_t splits = 0;     // words
  bool untouched = false;  // its data were never accessed: zero, and no memory of the system yet
};
extern Chunk* chunks;
void TakeApart(size_t chunk);  // gives bytes and words their own records
inline void TakeApart(size_t offset, size_t bytes) {
  for (size_t chunk = offset / kChunkBytes; chunk <= (offset + bytes - 1) / kChunkBytes; ++chunk) {
    if (chunks[chunk].plain) TakeApart(chunk);
  }
}

// Calls check(history) for all of a range, which was taken apart. nothing_new(history): whether it
// need not be called for a part of a word. stored: the range is stored, and nothing of before
// matters any more.
template <typename NothingNew, typename Check>
void ForHistories(size_t offset, size_t bytes, bool stored, NothingNew nothing_new, Check check) {
  for (size_t word = offset / 4; word <= (offset + bytes - 1) / 4; ++word) {
    const size_t begin = offset > word * 4 ? offset - word * 4 : 0;
    const size_t end = offset + bytes < word * 4 + 4 ? offset + bytes - word * 4 : 4;
    const bool whole = end - begin == 4;
    const History history = HistoryOf(word);
    if (!IsSplit(history)) {
      if (whole) {
        check(history);
        continue;
      }
      if (nothing_new(history)) continue;
      Split(history);
    }
    for (size_t byte = begin; byte < end; ++byte) check(ByteOf(history, byte));
    if (whole && stored) Merge(history);
  }
}

bool PeerAccessEnabled(int device, int peer);

// "store of 4 bytes at offset 1024 of an allocation of 1000 bytes of GPU 0"
ShortText DescribeAccess(const GlobalAccess& access);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_DEVICE_MEMORY_H_
