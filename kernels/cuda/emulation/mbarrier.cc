#include "kernels/cuda/emulation/mbarrier.h"

#include <cstring>

#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "kernels/cuda/emulation/shared_memory.h"

namespace tessera::simt::emulation {

MBarrier& FindMBarrier(Block& block, uint32_t offset, const uint32_t* clock,
                       const uint32_t* proxied) {
  const auto found = block.mbarriers.find(offset);
  if (found == block.mbarriers.end()) {
    Fail("shared offset %zu holds no initialised mbarrier", offset - kSharedOrigin);
  }
  if (M().options.check_races) {
    const Epoch e = block.written[offset];
    if (e != 0 && !Ordered(e, clock)) {
      Fail("the mbarrier at shared offset %zu is used, not ordered after its mbarrier.init by %s",
           offset - kSharedOrigin, Who(*block.cluster, e).c_str());
    }
    if (e != 0 && proxied != nullptr && !Ordered(e, proxied)) {
      Fail(
          "the mbarrier at shared offset %zu is used by a TMA load without a fence behind its "
          "mbarrier.init by %s",
          offset - kSharedOrigin, Who(*block.cluster, e).c_str());
    }
  }
  return found->second;
}

void MaybeCompletePhase(Block& block, MBarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  const size_t n = block.cluster->components;
  Join(b.done_clock.data(), b.clock.data(), n);
  Join(b.done_proxied.data(), b.proxied.data(), n);
  b.clock.assign(n, 0);
  b.proxied.assign(n, 0);
  if (!b.remote.empty()) {
    b.done_remote.resize(n);
    Join(b.done_remote.data(), b.remote.data(), n);
  }
  b.pending = b.count;
  ++b.phase;
  for (Thread* t : b.waiting) MakeRunnable(t);
  b.waiting.clear();
}

void CheckNoBarrier(const Block& block, size_t offset, size_t bytes, bool write) {
  if (block.mbarriers.empty()) return;
  const auto behind = block.mbarriers.lower_bound(static_cast<uint32_t>(offset + bytes));
  if (behind == block.mbarriers.begin()) return;
  const size_t begin = std::prev(behind)->first;
  if (begin + sizeof(uint64_t) > offset) {
    Fail("%s of the mbarrier at shared offset %zu", Verb(write), begin - kSharedOrigin);
  }
}

namespace {

// The barrier at an offset, at which the running thread arrives.
MBarrier& ArrivedAt(Block& block, uint32_t offset) {
  MBarrier& b = FindMBarrier(block, offset, Current()->clock, nullptr);
  if (b.pending == 0) {
    Fail("the mbarrier at shared offset %zu gets more arrivals than the %u that it counts",
         offset - kSharedOrigin, b.count);
  }
  return b;
}

void CountArrival(Block& block, MBarrier& b) {
  --b.pending;
  M().idle = 0;
  Tick(Current());
  MaybeCompletePhase(block, b);
}

void ArriveOn(uint64_t* barrier, uint32_t bytes) {
  Thread* t = Current();
  M().address = barrier;
  Block& block = *t->block;
  MBarrier& b = ArrivedAt(block, SharedOffset(barrier));
  const size_t n = block.cluster->components;
  Join(b.clock.data(), t->clock, n);
  Join(b.proxied.data(), t->proxied, n);
  b.bytes += bytes;
  CountArrival(block, b);
}

// Publishes what the thread knows of wgmma and TMA alone.
void ArriveRelaxed(Block& block, uint32_t offset) {
  Thread* t = Current();
  const Cluster& cluster = *block.cluster;
  if (block.live == 0) Fail("arrival at an mbarrier of a block that has ended");
  MBarrier& b = ArrivedAt(block, offset);
  Join(b.clock.data() + cluster.first_wgmma, t->clock + cluster.first_wgmma,
       cluster.components - cluster.first_wgmma);
  if (&block != t->block) {
    b.remote.resize(cluster.components);
    for (ClockVector* v : {&b.remote, &block.remote_arrivals}) {
      (*v)[t->component] = t->clock[t->component];
    }
  }
  CountArrival(block, b);
}

}  // namespace
}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

using namespace emulation;  // NOLINT: the bodies of ptx.h are written in the emulator's words

void MBarrierInit(uint64_t* barrier, uint32_t count) {
  Thread* t = Current();
  M().pc = __builtin_return_address(0);
  M().address = barrier;
  NeedCapability(90, "an mbarrier");
  const uint32_t offset = SharedOffset(barrier);
  if (offset % sizeof(uint64_t) != 0) Fail("an mbarrier that is not aligned to 8 bytes");
  if (count == 0 || count >= 1U << 20) Fail("an mbarrier for %u arrivals", count);
  CheckShared(*t->block, {offset, sizeof(uint64_t), true, Now(t), t->clock});
  MBarrier& b = t->block->mbarriers[offset];
  b = MBarrier();
  b.count = b.pending = count;
  const size_t n = t->block->cluster->components;
  for (ClockVector* v : {&b.clock, &b.proxied, &b.done_clock, &b.done_proxied}) v->assign(n, 0);
}

void FenceProxyAsync() {
  Thread* t = Current();
  std::memcpy(t->proxied, t->clock, t->block->cluster->components * sizeof(uint32_t));
}
void FenceBarrierInit() { FenceProxyAsync(); }

void MBarrierArrive(uint64_t* barrier) {
  M().pc = __builtin_return_address(0);
  ArriveOn(barrier, 0);
}
void MBarrierArriveExpectTx(uint64_t* barrier, uint32_t bytes) {
  M().pc = __builtin_return_address(0);
  ArriveOn(barrier, bytes);
}

void MBarrierArriveRemote(uint64_t* barrier, uint32_t rank) {
  M().pc = __builtin_return_address(0);
  M().address = barrier;
  NeedCapability(90, "an arrival at another block's mbarrier");
  ArriveRelaxed(BlockOfRank(rank), SharedOffset(barrier));
}

bool MBarrierTryWait(uint64_t* barrier, uint32_t parity) {
  Thread* t = Current();
  M().pc = __builtin_return_address(0);
  M().address = barrier;
  Block& block = *t->block;
  const uint32_t offset = SharedOffset(barrier);
  MBarrier* b = &FindMBarrier(block, offset, t->clock, nullptr);
  if ((b->phase & 1) == parity) {
    constexpr uint32_t kOneInFails = 16;  // as the hardware may
    if (M().random.Below(kOneInFails) == 0) {
      YieldIdle("mbarrier.try_wait");
      return false;
    }
    b->waiting.push_back(t);
    WaitFor("mbarrier.try_wait");
    b = &block.mbarriers[offset];
    if ((b->phase & 1) == parity) return false;
  }
  const size_t n = block.cluster->components;
  Join(t->clock, b->done_clock.data(), n);
  Join(t->proxied, b->done_proxied.data(), n);
  if (!b->done_remote.empty()) Join(block.awaited_arrivals.data(), b->done_remote.data(), n);
  return true;
}

}  // namespace tessera::simt::ptx
