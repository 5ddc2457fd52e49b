#include "kernels/cuda/emulation/warp.h"

#include <cstring>

#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/scheduler.h"

namespace tessera::simt::emulation {
namespace {

template <typename F>
void ForLanes(uint32_t mask, F f) {
  for (; mask != 0; mask &= mask - 1) f(__builtin_ctz(mask));
}

void Finish(Block& block, int warp, size_t index) {
  Warp& w = block.warps[static_cast<size_t>(warp)];
  Collective c = w.open[index];
  w.open.erase(w.open.begin() + static_cast<ptrdiff_t>(index));
  ++M().statistics.collectives;
  c.run(block, warp, c.arrived, c.operands, c.extra);
  ForLanes(c.arrived, [&](int lane) { MakeRunnable(&block.threads[warp * kWarpSize + lane]); });
}

void RunSyncWarp(Block& block, int warp, uint32_t arrived, void**, int64_t) {
  const size_t n = block.cluster->components;
  thread_local ClockVector clock, proxied;
  clock.assign(n, 0);
  proxied.assign(n, 0);
  Thread* threads = &block.threads[warp * kWarpSize];
  ForLanes(arrived, [&](int lane) {
    Join(clock.data(), threads[lane].clock, n);
    Join(proxied.data(), threads[lane].proxied, n);
  });
  ForLanes(arrived, [&](int lane) {
    std::memcpy(threads[lane].clock, clock.data(), n * sizeof(uint32_t));
    std::memcpy(threads[lane].proxied, proxied.data(), n * sizeof(uint32_t));
    Tick(&threads[lane]);
  });
}

struct ShuffleOperand {
  ShuffleCall call;
  uint64_t value, result;
};

int SourceLane(const ShuffleCall& call, int lane) {
  const int begin = lane / call.width * call.width;
  int source = lane;
  switch (call.mode) {
    case Shuffle::kIndex:
      source = begin + (call.operand & (call.width - 1));
      break;
    case Shuffle::kXor:
      source = lane ^ call.operand;
      break;
    case Shuffle::kDown:
      source = lane + call.operand;
      break;
    case Shuffle::kUp:
      source = lane - call.operand;
      break;
  }
  // Behind the end of its group a lane gets its own value.
  return source < begin || source >= begin + call.width ? lane : source;
}

void RunShuffle(Block& block, int warp, uint32_t arrived, void** operands, int64_t) {
  ForLanes(arrived, [&](int lane) {
    auto* o = static_cast<ShuffleOperand*>(operands[lane]);
    const int source = SourceLane(o->call, lane);
    if ((arrived >> source & 1) == 0) {
      Fail("block (%u,%u,%u) thread %d: a shuffle reads lane %d, which takes no part in it",
           block.threads[0].view->block_idx.x, block.threads[0].view->block_idx.y,
           block.threads[0].view->block_idx.z, warp * kWarpSize + lane, source);
    }
    o->result = static_cast<ShuffleOperand*>(operands[source])->value;
  });
}

void RunBallot(Block&, int, uint32_t arrived, void** operands, int64_t) {
  uint32_t bits = 0;
  ForLanes(arrived, [&](int lane) { bits |= *static_cast<uint32_t*>(operands[lane]) << lane; });
  ForLanes(arrived, [&](int lane) { *static_cast<uint32_t*>(operands[lane]) = bits; });
}

struct MatchOperand {
  uint64_t value;
  uint32_t lanes;
};

void RunMatch(Block&, int, uint32_t arrived, void** operands, int64_t) {
  ForLanes(arrived, [&](int lane) {
    auto* own = static_cast<MatchOperand*>(operands[lane]);
    own->lanes = 0;
    ForLanes(arrived, [&](int other) {
      if (static_cast<MatchOperand*>(operands[other])->value == own->value) {
        own->lanes |= 1U << other;
      }
    });
  });
}

uint32_t Reduce(WarpReduce operation, uint32_t a, uint32_t b) {
  switch (operation) {
    case WarpReduce::kAdd:
      return a + b;
    case WarpReduce::kMin:
      return std::min(a, b);
    case WarpReduce::kMax:
      return std::max(a, b);
    case WarpReduce::kMinSigned:
      return static_cast<uint32_t>(std::min(static_cast<int32_t>(a), static_cast<int32_t>(b)));
    case WarpReduce::kMaxSigned:
      return static_cast<uint32_t>(std::max(static_cast<int32_t>(a), static_cast<int32_t>(b)));
    case WarpReduce::kAnd:
      return a & b;
    case WarpReduce::kOr:
      return a | b;
  }
  return 0;
}

void RunReduce(Block&, int, uint32_t arrived, void** operands, int64_t operation) {
  uint32_t result = *static_cast<uint32_t*>(operands[__builtin_ctz(arrived)]);
  ForLanes(arrived & (arrived - 1), [&](int lane) {
    result =
        Reduce(static_cast<WarpReduce>(operation), result, *static_cast<uint32_t*>(operands[lane]));
  });
  ForLanes(arrived, [&](int lane) { *static_cast<uint32_t*>(operands[lane]) = result; });
}

}  // namespace

void Collect(const WarpCall& call, void* operand) {
  Thread* t = Current();
  Machine& m = M();
  m.address = nullptr;
  Warp& w = t->block->warps[static_cast<size_t>(t->warp)];
  const uint32_t bit = 1U << t->lane;
  if ((call.mask & bit) == 0) {
    Fail("line %d: %s: lane %d is not in its own mask %08x", call.site.line, call.what, t->lane,
         call.mask);
  }
  size_t i = 0;
  while (i < w.open.size() && (w.open[i].mask != call.mask || w.open[i].run != call.run ||
                               w.open[i].extra != call.extra || (w.open[i].arrived & bit) != 0)) {
    ++i;
  }
  if (i == w.open.size()) {
    w.open.emplace_back();
    w.open[i].mask = call.mask;
    w.open[i].run = call.run;
    w.open[i].extra = call.extra;
  }
  Collective& c = w.open[i];
  c.arrived |= bit;
  c.operands[t->lane] = operand;
  if (c.arrived == (call.mask & ~w.exited)) {
    Finish(*t->block, t->warp, i);
  } else {
    WaitFor(call.what, call.site);
  }
}

void LeaveWarp(Thread* t) {
  Warp& w = t->block->warps[static_cast<size_t>(t->warp)];
  w.exited |= 1U << t->lane;
  for (size_t i = 0; i < w.open.size();) {
    const uint32_t needed = w.open[i].mask & ~w.exited;
    if (needed != 0 && w.open[i].arrived == needed) {
      Finish(*t->block, t->warp, i);
    } else {
      ++i;
    }
  }
}

void SyncWarp(uint32_t mask, Site site) {
  M().pc = __builtin_return_address(0);
  Collect({mask, "__syncwarp", RunSyncWarp, 0, site}, nullptr);
}

uint64_t ShuffleBits(const ShuffleCall& call, uint64_t value, Site site) {
  M().pc = __builtin_return_address(0);
  ShuffleOperand operand{call, value, 0};
  Collect({call.mask, "a shuffle", RunShuffle, static_cast<int64_t>(call.mode), site}, &operand);
  return operand.result;
}

uint32_t Ballot(uint32_t mask, bool predicate, Site site) {
  M().pc = __builtin_return_address(0);
  uint32_t bits = predicate ? 1 : 0;
  Collect({mask, "a ballot", RunBallot, 0, site}, &bits);
  return bits;
}

uint32_t MatchAny(uint32_t mask, uint64_t value, Site site) {
  M().pc = __builtin_return_address(0);
  MatchOperand operand{value, 0};
  Collect({mask, "__match_any_sync", RunMatch, 0, site}, &operand);
  return operand.lanes;
}

uint32_t ReduceBits(uint32_t mask, uint32_t value, WarpReduce operation, Site site) {
  M().pc = __builtin_return_address(0);
  Collect({mask, "a warp reduction", RunReduce, static_cast<int64_t>(operation), site}, &value);
  return value;
}

}  // namespace tessera::simt::emulation
