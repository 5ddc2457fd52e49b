#include "kernels/cuda/emulation/barrier.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/scheduler.h"
#include "kernels/cuda/emulation/shared_memory.h"
#include "kernels/cuda/emulation/warp.h"

namespace tessera::simt::emulation {
namespace {

constexpr int kAllThreads = -1;  // what __syncthreads expects: all that live

void Arrive(Barrier& b, Thread* t, size_t n) {
  if (++b.arrived == 1) {
    b.clock.assign(n, 0);
    b.proxied.assign(n, 0);
  }
  if (!M().options.check_races) return;
  Join(b.clock.data(), t->clock, n);
  Join(b.proxied.data(), t->proxied, n);
}

void Complete(Barrier& b, size_t n) {
  for (Thread* t : b.waiting) {
    if (M().options.check_races) {
      Join(t->clock, b.clock.data(), n);
      Join(t->proxied, b.proxied.data(), n);
      Tick(t);
    }
    MakeRunnable(t);
  }
  b.expected = b.arrived = 0;
  b.waiting.clear();
}

// The cluster's barrier is complete when all that live have arrived and all of them wait.
bool MaybeCompleteCluster(Cluster& c) {
  if (c.live == 0 || c.barrier.arrived != c.live ||
      static_cast<int>(c.barrier.waiting.size()) != c.live) {
    return false;
  }
  Complete(c.barrier, c.components);
  return true;
}

void CheckBlockMayEnd(Block& block) {
  if (!M().options.check_races) return;
  for (uint32_t c = 0; c < block.cluster->components; ++c) {
    if (block.remote[c] > block.exit_clock[c]) {
      Fail("the block may end before %s has accessed its shared memory",
           Who(*block.cluster, EpochOf(c, 1)).c_str());
    }
    if (block.remote_arrivals[c] > std::max(block.exit_clock[c], block.awaited_arrivals[c])) {
      Fail("the block may end before %s has arrived at its mbarrier",
           Who(*block.cluster, EpochOf(c, 1)).c_str());
    }
  }
}

}  // namespace

void SyncThreads(Site site) {
  Thread* t = Current();
  Machine& m = M();
  m.pc = __builtin_return_address(0);
  m.address = nullptr;
  Block& block = *t->block;
  const size_t n = block.cluster->components;
  Barrier& b = block.barriers[0];
  if (b.arrived > 0 && b.expected != kAllThreads) {
    Fail("__syncthreads while barrier 0 is used with %d threads", b.expected);
  }
  if (b.arrived == 0) {
    b.site = site;
  } else if (b.site.line != site.line || std::strcmp(b.site.file, site.file) != 0) {
    Fail(
        "the threads of a block meet in different __syncthreads: at line %d and, %d of them, at "
        "line %d",
        site.line, b.arrived, b.site.line);
  }
  b.expected = kAllThreads;
  Arrive(b, t, n);
  b.waiting.push_back(t);
  if (b.arrived == block.live) {
    Complete(b, n);
  } else {
    WaitFor("__syncthreads", site);
  }
}

void NamedBarrier(int id, int threads, bool wait) {
  Thread* t = Current();
  M().address = nullptr;
  Block& block = *t->block;
  if (id < 0 || id >= kNamedBarriers || threads <= 0 || threads % kWarpSize != 0) {
    Fail("bar.sync %d, %d: there are barriers 0 to 15, for whole warps", id, threads);
  }
  if (threads > static_cast<int>(block.threads.size())) {
    Fail("barrier %d waits for %d threads, the block has %zu", id, threads, block.threads.size());
  }
  const size_t n = block.cluster->components;
  Barrier& b = block.barriers[id];
  if (b.arrived > 0 && b.expected == kAllThreads) {
    Fail("barrier 0 is used by __syncthreads and with %d threads", threads);
  }
  if (b.arrived > 0 && b.expected != threads) {
    Fail("barrier %d is used with %d and with %d threads", id, b.expected, threads);
  }
  b.expected = threads;
  Arrive(b, t, n);
  if (wait) {
    b.waiting.push_back(t);
  } else {
    Tick(t);
  }
  if (b.arrived == threads) {
    Complete(b, n);
  } else if (wait) {
    WaitFor("a named barrier");
  }
}

void LeaveBarriers(Thread* t) {
  Block& block = *t->block;
  LeaveWarp(t);
  Cluster& cluster = *block.cluster;
  if (cluster.blocks.size() > 1 || cluster.next_tma > 0) {
    Join(block.exit_clock.data(), t->clock, cluster.components);
  }
  if (cluster.blocks.size() > 1) {
    if (block.live == 0) CheckBlockMayEnd(block);
    MaybeCompleteCluster(cluster);
  }
  Barrier& b = block.barriers[0];
  if (b.expected == kAllThreads && b.arrived > 0 && b.arrived == block.live) {
    Complete(b, cluster.components);
  }
}

std::string OpenBarriers(const Block& block) {
  std::string text;
  for (int id = 0; id < kNamedBarriers; ++id) {
    const Barrier& b = block.barriers[id];
    if (b.arrived == 0) continue;
    text += "; barrier " + std::to_string(id) + " has " + std::to_string(b.arrived) + " of " +
            std::to_string(b.expected == kAllThreads ? block.live : b.expected) + " threads";
  }
  for (const auto& [offset, b] : block.mbarriers) {
    text += "; mbarrier at shared offset " + std::to_string(offset - kSharedOrigin) +
            " is in phase " + std::to_string(b.phase) + ", lacks " + std::to_string(b.pending) +
            " arrivals and " + std::to_string(b.bytes) + " bytes";
  }
  return text;
}

void ArriveAtCluster() {
  Thread* t = Current();
  Cluster& c = *t->block->cluster;
  if (c.barrier.arrived == c.live) Fail("barrier.cluster.arrive twice without a wait");
  Arrive(c.barrier, t, c.components);
  Tick(t);
}

void WaitForCluster() {
  Thread* t = Current();
  Cluster& c = *t->block->cluster;
  c.barrier.waiting.push_back(t);
  if (!MaybeCompleteCluster(c)) WaitFor("barrier.cluster.wait");
}

void* MapShared(const void* address, uint32_t rank) {
  M().pc = __builtin_return_address(0);
  return BlockOfRank(rank).shared + SharedOffset(address);
}

}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

using namespace emulation;  // NOLINT: the bodies of ptx.h are written in the emulator's words

void NamedBarrierSync(int id, int threads) {
  M().pc = __builtin_return_address(0);
  NamedBarrier(id, threads, true);
}
void NamedBarrierArrive(int id, int threads) {
  M().pc = __builtin_return_address(0);
  NamedBarrier(id, threads, false);
}

uint32_t ClusterRank() { return Current()->view->cluster_rank; }

void ClusterArrive() {
  M().pc = __builtin_return_address(0);
  ArriveAtCluster();
}
void ClusterWait() {
  M().pc = __builtin_return_address(0);
  WaitForCluster();
}

}  // namespace tessera::simt::ptx
