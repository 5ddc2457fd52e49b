#include "kernels/cuda/emulation/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "kernels/core/mutex.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kGuardBytes = 512;  // between allocations

// Address space without memory: pages appear, zero, when they are touched.
unsigned char* Reserve(size_t bytes) {
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TESSERA_CHECK(mapped != MAP_FAILED);
  return static_cast<unsigned char*>(mapped);
}
constexpr size_t kAllBytes = kMaxDevices * kDeviceWindow;

struct Allocations {
  Mutex mutex;
  std::map<size_t, size_t> by_offset;  // bytes
  size_t end[kMaxDevices] = {};        // addresses below were given away
  size_t bytes[kMaxDevices] = {};
  std::set<std::pair<int, int>> peers;
};
Allocations& A() {
  static Allocations allocations;
  return allocations;
}

struct SplitWord {
  Cell written[4];
  Cell others[kOthers][4];
};
struct SplitWords {
  std::deque<SplitWord> words;
  std::vector<uint32_t> unused;
};
SplitWords& Splits() {
  static SplitWords splits;
  return splits;
}

// Gives whole pages back to the system, which makes them zero; zeroes the rest.
void Forget(unsigned char* begin, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto from = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const auto to = (reinterpret_cast<uintptr_t>(begin) + bytes) / page * page;
  if (from >= to) {
    std::memset(begin, 0, bytes);
    return;
  }
  const size_t head = from - reinterpret_cast<uintptr_t>(begin);
  std::memset(begin, 0, head);
  TESSERA_CHECK(madvise(begin + head, to - from, MADV_DONTNEED) == 0);
  std::memset(begin + head + (to - from), 0, bytes - head - (to - from));
}

// Whole chunks are touched later, if at all. Addresses are never used again, so their pages are
// fresh.
void BeginAllocation(size_t begin, size_t end) {
  size_t from = (begin + kChunkBytes - 1) / kChunkBytes, to = end / kChunkBytes;
  if (from >= to) from = to = end / kChunkBytes + 1;  // none
  for (size_t chunk = from; chunk < to; ++chunk) {
    chunks[chunk] = {.written = 0, .state = kAllocated, .plain = true, .untouched = true};
  }
  const auto fill = [](size_t first, size_t last) {
    std::memset(GlobalWindows() + first, 0xff, last - first);
    std::memset(ByteStates() + first, kAllocated, last - first);
  };
  fill(begin, std::min(end, from * kChunkBytes));
  if (to * kChunkBytes < end) fill(to * kChunkBytes, end);
}

size_t ChunkOf(const History& word) {
  return static_cast<size_t>(word.written - cell_planes) * 4 / kChunkBytes;
}

// Of all words in [begin, end), which are whole.
void MergeSplitWords(size_t begin, size_t end) {
  for (size_t at = begin; at < end; at += 4) {
    if (chunks[at / kChunkBytes].splits == 0) {
      at = at / kChunkBytes * kChunkBytes + kChunkBytes - 4;
    } else if (IsSplit(HistoryOf(at / 4))) {
      Merge(HistoryOf(at / 4));
    }
  }
}

// The chunks in [begin, end) are nobody's; what they share with other allocations is never plain.
void ForgetChunks(size_t begin, size_t end) {
  for (size_t chunk = begin / kChunkBytes; chunk <= (end - 1) / kChunkBytes; ++chunk) {
    chunks[chunk] = {};
  }
}

}  // namespace

unsigned char* global_windows = nullptr;
unsigned char* byte_states = nullptr;
Cell* cell_planes = nullptr;
Chunk* chunks = nullptr;

void ReserveMemory() {
  static const bool reserved = [] {
    byte_states = Reserve(kAllBytes);
    cell_planes = reinterpret_cast<Cell*>(Reserve((1 + kOthers) * kCellsPerPlane * sizeof(Cell)));
    chunks = reinterpret_cast<Chunk*>(Reserve(kAllBytes / kChunkBytes * sizeof(Chunk)));
    ReserveSharedWindows();
    global_windows = Reserve(kAllBytes);
    return true;
  }();
  (void)reserved;
}

void TakeApart(size_t chunk) {
  Chunk& c = chunks[chunk];
  const size_t at = chunk * kChunkBytes;
  if (c.state == kAllocated) std::memset(GlobalWindows() + at, 0xff, kChunkBytes);
  std::memset(ByteStates() + at, c.state, kChunkBytes);
  std::fill_n(cell_planes + at / 4, kChunkBytes / 4, c.written);
  c.plain = c.untouched = false;
}

History ByteOf(const History& word, size_t byte) {
  SplitWord& split = Splits().words[static_cast<uint32_t>(*word.written)];
  History history{&split.written[byte], {}};
  for (int i = 0; i < kOthers; ++i) history.others[i] = &split.others[i][byte];
  return history;
}

void Split(const History& word) {
  SplitWords& splits = Splits();
  uint32_t index;
  if (splits.unused.empty()) {
    index = static_cast<uint32_t>(splits.words.size());
    splits.words.emplace_back();
  } else {
    index = splits.unused.back();
    splits.unused.pop_back();
  }
  SplitWord& split = splits.words[index];
  for (int byte = 0; byte < 4; ++byte) {
    split.written[byte] = *word.written;
    for (int i = 0; i < kOthers; ++i) split.others[i][byte] = *word.others[i];
  }
  *word.written = CellOf(0xffffffffU, index);
  ++chunks[ChunkOf(word)].splits;
}

void Merge(const History& word) {
  const auto index = static_cast<uint32_t>(*word.written);
  const SplitWord& split = Splits().words[index];
  *word.written = split.written[0];
  for (int i = 0; i < kOthers; ++i) {
    if (*word.others[i] != split.others[i][0]) *word.others[i] = split.others[i][0];
  }
  Splits().unused.push_back(index);
  --chunks[ChunkOf(word)].splits;
}

void* Allocate(int device, size_t bytes) {
  ReserveMemory();
  Allocations& a = A();
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  MutexLock lock(&a.mutex);
  if (a.bytes[device] + rounded > M().options.memory_bytes ||
      a.end[device] + rounded + kGuardBytes > kDeviceWindow) {
    return nullptr;
  }
  if (a.end[device] == 0) a.end[device] = size_t{1} << 20;  // null and its neighbours stay invalid
  const size_t at = static_cast<size_t>(device) * kDeviceWindow + a.end[device];
  a.end[device] += rounded + kGuardBytes;
  a.bytes[device] += rounded;
  a.by_offset[at] = bytes;
  BeginAllocation(at, at + bytes);
  return GlobalWindows() + at;
}

bool Free(void* pointer) {
  Allocations& a = A();
  MutexLock lock(&a.mutex);
  const auto found = a.by_offset.find(GlobalOffset(pointer));
  if (found == a.by_offset.end()) return false;
  const auto [at, bytes] = *found;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  MergeSplitWords(at, at + rounded);
  ForgetChunks(at, at + rounded);
  Forget(GlobalWindows() + at, rounded);
  Forget(ByteStates() + at, rounded);
  for (int plane = 0; plane <= kOthers; ++plane) {
    Cell* cells = cell_planes + static_cast<size_t>(plane) * kCellsPerPlane + at / 4;
    Forget(reinterpret_cast<unsigned char*>(cells), rounded / 4 * sizeof(Cell));
  }
  a.bytes[at / kDeviceWindow] -= rounded;
  a.by_offset.erase(found);
  return true;
}

size_t AllocatedBytes(int device) {
  Allocations& a = A();
  MutexLock lock(&a.mutex);
  return a.bytes[device];
}

int DeviceOf(const void* pointer) {
  if (global_windows == nullptr) return -1;
  const size_t offset = GlobalOffset(pointer);
  return offset < kAllBytes ? static_cast<int>(offset / kDeviceWindow) : -1;
}

bool EnablePeerAccess(int device, int peer) {
  Allocations& a = A();
  MutexLock lock(&a.mutex);
  return a.peers.insert({device, peer}).second;
}

bool PeerAccessEnabled(int device, int peer) {
  Allocations& a = A();
  MutexLock lock(&a.mutex);
  return a.peers.count({device, peer}) != 0;
}

namespace {

// Begins and ends of mapped host memory.
struct Mapped {
  Mutex mutex;
  std::map<uintptr_t, uintptr_t> ranges ABSL_GUARDED_BY(mutex);
};
Mapped& H() {
  static Mapped& mapped = *new Mapped;
  return mapped;
}

}  // namespace

void Map(const void* host, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(host);
  MutexLock lock(&H().mutex);
  H().ranges[begin] = begin + bytes;
}

void Unmap(const void* host) {
  MutexLock lock(&H().mutex);
  H().ranges.erase(reinterpret_cast<uintptr_t>(host));
}

bool IsMapped(const void* host, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(host);
  MutexLock lock(&H().mutex);
  const auto after = H().ranges.upper_bound(begin);
  return after != H().ranges.begin() && begin + bytes <= std::prev(after)->second;
}

ShortText DescribeAccess(const GlobalAccess& access) {
  ShortText out;
  Allocations& a = A();
  const size_t offset = GlobalOffset(access.pointer);
  MutexLock lock(&a.mutex);
  // The nearest allocation that begins at or before the address, or else the one behind it.
  auto it = a.by_offset.upper_bound(offset);
  if (it != a.by_offset.begin()) --it;
  if (it == a.by_offset.end()) {
    std::snprintf(out.text, sizeof(out.text), "%s of %zu bytes without any allocation",
                  Verb(access.write), access.bytes);
    return out;
  }
  std::snprintf(out.text, sizeof(out.text),
                "%s of %zu bytes at offset %zd of an allocation of %zu bytes of GPU %zu",
                Verb(access.write), access.bytes,
                static_cast<ssize_t>(offset) - static_cast<ssize_t>(it->first), it->second,
                it->first / kDeviceWindow);
  return out;
}

}  // namespace tessera::simt::emulation
