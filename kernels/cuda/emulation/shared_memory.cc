#include "kernels/cuda/emulation/shared_memory.h"

#include <sys/mman.h>

#include <array>
#include <cstring>

#include "kernels/core/status_macros.h"
#include "kernels/cuda/emulation/report.h"

namespace tessera::simt::emulation {
namespace {

constexpr size_t kPlanes = 1 + kSharedOthers;

struct Window {
  bool used = false;
  std::unique_ptr<Epoch[]> shadow;
};
std::array<Window, kSharedWindows>& Windows() {
  static std::array<Window, kSharedWindows> windows;
  return windows;
}

// Most accesses have 4 or 16 bytes; with the count known, compilers vectorise these loops.
template <size_t kCount>
bool SameFixed(const Epoch* p, Epoch value) {
  Epoch difference = 0;
  for (size_t i = 0; i < kCount; ++i) difference |= p[i] ^ value;
  return difference == 0;
}
bool Same(const Epoch* p, size_t n, Epoch value) {
  if (n == 4) return SameFixed<4>(p, value);
  if (n == 16) return SameFixed<16>(p, value);
  for (size_t i = 0; i < n; ++i) {
    if (p[i] != value) return false;
  }
  return true;
}
template <size_t kCount>
void SetFixed(Epoch* p, Epoch value) {
  for (size_t i = 0; i < kCount; ++i) p[i] = value;
}
void Set(Epoch* p, size_t n, Epoch value) {
  if (n == 4) return SetFixed<4>(p, value);
  if (n == 16) return SetFixed<16>(p, value);
  for (size_t i = 0; i < n; ++i) p[i] = value;
}

// Fails if the access is not ordered after an earlier one.
void CheckOrder(const Block& block, const SharedAccess& a, Epoch earlier, const char* what,
                size_t at) {
  if (earlier == 0 || (IsAtomic(earlier) && IsAtomic(a.own))) return;
  const Cluster& cluster = *block.cluster;
  if (!Ordered(earlier, a.clock)) {
    Fail("race on shared offset %zu: %s by %s, not ordered after the %s by %s", at - kSharedOrigin,
         Verb(a.write), Who(cluster, a.own).c_str(), what, Who(cluster, earlier).c_str());
  }
  const bool generic = ComponentOf(earlier) < cluster.first_wgmma;
  if (a.proxied != nullptr && generic && !a.write && !Ordered(earlier, a.proxied)) {
    Fail("shared offset %zu: %s reads what %s stored without fence.proxy.async", at - kSharedOrigin,
         Who(cluster, a.own).c_str(), Who(cluster, earlier).c_str());
  }
}

void CheckAllOrdered(const Block& block, const SharedAccess& a, const Epoch* earlier,
                     const char* what) {
  if (Same(earlier, a.bytes, earlier[0])) return CheckOrder(block, a, earlier[0], what, a.offset);
  for (size_t i = 0; i < a.bytes; ++i) CheckOrder(block, a, earlier[i], what, a.offset + i);
}

void CheckWritten(const Block& block, const SharedAccess& a) {
  const Epoch* written = block.written + a.offset;
  if (Same(written, a.bytes, written[0]) && written[0] != 0) return;
  for (size_t i = 0; i < a.bytes; ++i) {
    if (written[i] != 0) continue;
    Fail("load of shared offset %zu, which nobody has written", a.offset + i - kSharedOrigin);
  }
}

// Where an access is put among the others of a byte: in the place of one that it makes superfluous,
// or where there is room, or, when there is none, anywhere.
template <typename Superfluous>
Epoch* PlaneFor(const Block& block, size_t at, Epoch e, Superfluous superfluous) {
  for (Epoch* plane : block.others) {
    if (plane[at] == 0 || plane[at] == e || superfluous(plane[at])) return plane;
  }
  return block.others[M().random.Below(kSharedOthers)];
}

// The load itself, of bytes with the same past: what is ordered before it, and conflicts with
// nothing more, matters no more.
void RememberLoad(const Block& block, const SharedAccess& a, size_t at, size_t bytes) {
  if (!IsAtomic(a.own)) {
    // Atomics that others have overtaken: a plain load must be ordered after them all.
    for (const Epoch* plane : block.others) {
      if (IsAtomic(plane[at])) CheckOrder(block, a, plane[at], "store", at);
    }
  }
  Epoch* plane = PlaneFor(block, at, a.own, [&](Epoch other) {
    return Ordered(other, a.clock) && (IsAtomic(other) || !IsAtomic(a.own));
  });
  Set(plane + at, bytes, a.own);
}

// The store that an atomic overtakes.
void RememberOvertaken(const Block& block, size_t at, Epoch e) {
  for (const Epoch* plane : block.others) {
    if (plane[at] != 0 && Covers(plane[at], e)) return;
  }
  PlaneFor(block, at, e, [&](Epoch other) { return Covers(e, other); })[at] = e;
}

// Whether all bytes of the access have been loaded by the same ones. Planes are filled from the
// first on.
bool SameOthers(const Block& block, const SharedAccess& a) {
  for (const Epoch* plane : block.others) {
    const Epoch* other = plane + a.offset;
    if (!Same(other, a.bytes, other[0])) return false;
    if (other[0] == 0) return true;
  }
  return true;
}

void CheckLoad(const Block& block, const SharedAccess& a) {
  const Epoch* written = block.written + a.offset;
  if (written[0] != 0 && Same(written, a.bytes, written[0])) {
    CheckOrder(block, a, written[0], "store", a.offset);
  } else {
    CheckWritten(block, a);
    CheckAllOrdered(block, a, written, "store");
  }
  if (a.modifies) return;  // its store is checked next, and remembered
  if (Same(block.others[0] + a.offset, a.bytes, a.own)) return;
  if (SameOthers(block, a)) return RememberLoad(block, a, a.offset, a.bytes);
  for (size_t i = 0; i < a.bytes; ++i) RememberLoad(block, a, a.offset + i, 1);
}

void CheckStore(const Block& block, const SharedAccess& a) {
  Epoch* written = block.written + a.offset;
  CheckAllOrdered(block, a, written, "store");
  for (Epoch* slot : block.others) {
    Epoch* other = slot + a.offset;
    if (Same(other, a.bytes, 0)) continue;
    CheckAllOrdered(block, a, other, IsAtomic(other[0]) ? "store" : "load");
    if (!IsAtomic(a.own)) Set(other, a.bytes, 0);
  }
  if (IsAtomic(a.own)) {
    for (size_t i = 0; i < a.bytes; ++i) {
      if (written[i] != 0 && written[i] != a.own) {
        RememberOvertaken(block, a.offset + i, written[i]);
      }
    }
  }
  Set(written, a.bytes, a.own);
}

}  // namespace

unsigned char* shared_windows = nullptr;

void ReserveSharedWindows() {
  void* mapped = mmap(nullptr, (kSharedWindows + 1) * kSharedWindow, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TESSERA_CHECK(mapped != MAP_FAILED);
  auto* p = static_cast<unsigned char*>(mapped);
  shared_windows = p + kSharedWindow - reinterpret_cast<uintptr_t>(p) % kSharedWindow;
}

void CheckShared(Block& block, const SharedAccess& a) {
  if (a.offset < kSharedOrigin || a.offset + a.bytes > block.shared_end) {
    Fail("%s of %zu bytes at offset %zd of shared memory, which has %zu", Verb(a.write), a.bytes,
         static_cast<ssize_t>(a.offset) - static_cast<ssize_t>(kSharedOrigin),
         block.shared_end - kSharedOrigin);
  }
  if (&block != Current()->block && block.live == 0) {
    Fail("access to shared memory of a block that has ended");
  }
  const bool by_tma = ComponentOf(a.own) >= block.cluster->first_tma;
  if (!block.remote.empty() && (by_tma || &block != Current()->block)) {
    uint32_t& last = block.remote[ComponentOf(a.own)];
    last = std::max(last, a.own & kClockMask);
  }
  if (!M().options.check_races) {
    if (a.write) {
      Set(block.written + a.offset, a.bytes, a.own);
    } else {
      CheckWritten(block, a);
    }
  } else if (a.write) {
    CheckStore(block, a);
  } else {
    CheckLoad(block, a);
  }
}

Block& BlockOfRank(uint32_t rank) {
  std::vector<Block>& blocks = Current()->block->cluster->blocks;
  if (rank >= blocks.size()) Fail("rank %u of a cluster of %zu blocks", rank, blocks.size());
  return blocks[rank];
}

Block* SharedBlockAt(uintptr_t address, size_t* offset) {
  const uintptr_t at = address - reinterpret_cast<uintptr_t>(SharedWindows());
  *offset = at % kSharedWindow;
  for (Block& block : Current()->block->cluster->blocks) {
    if (block.slot == static_cast<int>(at / kSharedWindow)) return &block;
  }
  Fail("access to the shared memory of a block outside this cluster");
}

uint32_t SharedOffset(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!IsShared(address)) Fail("%p is not an address of shared memory", pointer);
  size_t offset;
  if (SharedBlockAt(address, &offset) != Current()->block) {
    Fail("an address of this block's shared memory is needed");
  }
  return static_cast<uint32_t>(offset);
}

void TakeWindow(Block* block, size_t bytes) {
  auto& windows = Windows();
  block->slot = 0;
  while (windows[block->slot].used) ++block->slot;
  Window& window = windows[block->slot];
  window.used = true;
  if (window.shadow == nullptr) window.shadow = std::make_unique<Epoch[]>(kPlanes * kSharedWindow);
  block->shared = SharedWindows() + block->slot * kSharedWindow;
  block->shared_end = kSharedOrigin + bytes;
  block->written = window.shadow.get();
  for (size_t i = 1; i < kPlanes; ++i) {
    block->others[i - 1] = window.shadow.get() + i * kSharedWindow;
  }
  for (size_t i = 0; i < kPlanes; ++i) {
    std::memset(window.shadow.get() + i * kSharedWindow, 0, block->shared_end * sizeof(Epoch));
  }
  std::memset(block->shared, 0xff, block->shared_end);
}

void GiveWindow(Block* block) { Windows()[block->slot].used = false; }

}  // namespace tessera::simt::emulation
