#include <cstring>

#include "kernels/cuda/emulation/async_copy.h"
#include "kernels/cuda/emulation/global_memory.h"
#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {

void CheckNoCopies(const Thread* t) {
  if (!t->open_copies.empty() || !t->copy_groups.empty()) {
    Fail("a thread ends with cp.async in flight");
  }
}

}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

using namespace emulation;  // NOLINT: the bodies of ptx.h are written in the emulator's words

namespace {

constexpr uint32_t kCopyBytes = 16;

void Land(Block& block, CpAsync& c) {
  if (c.landed) return;
  c.landed = true;
  std::memset(block.shared + c.shared, 0, kCopyBytes);
  if (c.valid > 0) std::memcpy(block.shared + c.shared, c.global, c.valid);
}

uint32_t CopyComponent(const Thread& t) { return t.block->cluster->first_copy + t.component; }

}  // namespace

void CpAsync16(void* shared, const void* global, uint32_t valid) {
  Thread* t = Current();
  M().pc = __builtin_return_address(0);
  M().address = shared;
  CpAsync c{SharedOffset(shared), global, valid, false};
  if (c.shared % kCopyBytes != 0) Fail("cp.async to a shared address that is not aligned to 16");
  if (reinterpret_cast<uintptr_t>(global) % kCopyBytes != 0) {
    Fail("cp.async from %p, which is not aligned to 16 bytes", global);
  }
  if (valid > kCopyBytes) Fail("cp.async of %u bytes", valid);
  if (valid > 0) {
    if (!IsGlobal(reinterpret_cast<uintptr_t>(global)))
      Fail("cp.async from host memory (%p)", global);
    M().address = global;
    CheckGlobal(t, {global, valid, false});
    M().address = shared;
  }
  // The unit's clock advances when a group is waited for.
  const uint32_t component = CopyComponent(*t);
  const uint32_t clock = t->clock[component] + 1 + static_cast<uint32_t>(t->copy_groups.size());
  CheckShared(*t->block, {c.shared, kCopyBytes, true, EpochOf(component, clock), t->clock});
  std::memset(t->block->shared + c.shared, 0xff, kCopyBytes);
  if (M().random.Below(4) == 0) Land(*t->block, c);
  t->open_copies.push_back(c);
}

void CpAsyncCommit() {
  Thread* t = Current();
  t->copy_groups.push_back(std::move(t->open_copies));
  t->open_copies.clear();
}

void CpAsyncWaitGroups(int pending) {
  Thread* t = Current();
  M().pc = __builtin_return_address(0);
  while (static_cast<int>(t->copy_groups.size()) > pending) {
    for (CpAsync& c : t->copy_groups.front()) Land(*t->block, c);
    t->copy_groups.pop_front();
    if (++t->clock[CopyComponent(*t)] >= kClockMask) Fail("the emulator's clock overflows");
  }
}

}  // namespace tessera::simt::ptx
