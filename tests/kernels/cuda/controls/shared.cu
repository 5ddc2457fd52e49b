// Shared memory and barriers of a block.
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::SharedMemory;
using simt::TensorMap;
namespace ptx = simt::ptx;

constexpr int kThreads = 96;

struct Values {
  float values[kThreads];
};
struct Counts {
  uint32_t counts[8];
};

SIMT_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingBarrierBeforeLoad(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  shared.values[Thread()] = b.in[Thread()];
  if (!kBug) __syncthreads();
  b.out[Thread()] = shared.values[(Thread() + 40) % kThreads];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingBarrierBeforeStore(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  shared.values[Thread()] = b.in[Thread()];
  __syncthreads();
  const float other = shared.values[(Thread() + 40) % kThreads];
  if (!kBug) __syncthreads();
  shared.values[Thread()] = other;
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
BarrierInDivergentCode(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  shared.values[Thread()] = b.in[Thread()];
  if (!kBug || Thread() < 64) __syncthreads();
  b.out[Thread()] = shared.values[Thread()];
  __syncthreads();
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingSyncWarp(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  shared.values[Thread()] = b.in[Thread()];
  if (!kBug) __syncwarp();
  b.out[Thread()] = shared.values[Thread() ^ 1];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
SharedIndexOffByOne(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  shared.values[Thread() + (kBug ? 1 : 0)] = b.in[Thread()];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
UnwrittenShared(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  if (!kBug || Thread() != 17) shared.values[Thread()] = b.in[Thread()];
  __syncthreads();
  b.out[Thread()] = shared.values[Thread()];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
TooLittleShared(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  struct More {
    float values[kThreads + 1];
  };
  if (kBug) {
    SharedMemory<More>().values[Thread()] = b.in[0];
  } else {
    SharedMemory<Values>().values[Thread()] = b.in[0];
  }
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
HistogramReadTooEarly(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Counts& shared = SharedMemory<Counts>();
  if (Thread() < 8) shared.counts[Thread()] = 0;
  __syncthreads();
  ptx::AtomicAddShared(&shared.counts[Thread() % 8], 1);
  if (!kBug) __syncthreads();
  if (Thread() < 8) b.words[Thread()] = shared.counts[Thread()];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
AtomicAndPlainShared(ControlBuffers, const SIMT_GRID_CONSTANT TensorMap) {
  Counts& shared = SharedMemory<Counts>();
  if (Thread() == 0) shared.counts[0] = 0;
  __syncthreads();
  if (kBug && Thread() == 5) {
    shared.counts[0] += 1;
  } else {
    ptx::AtomicAddShared(&shared.counts[0], 1);
  }
}

// Warp 0 hands over to warps 1 and 2.
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
NamedBarrierCount(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  if (Thread() < 32) {
    shared.values[Thread()] = b.in[Thread()];
    ptx::NamedBarrierArrive(3, kBug ? 64 : 96);
  } else {
    ptx::NamedBarrierSync(3, 96);
    b.out[Thread()] = shared.values[Thread() % 32];
  }
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
NamedBarrierNumber(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  if (Thread() < 32) {
    shared.values[Thread()] = b.in[Thread()];
    ptx::NamedBarrierArrive(kBug ? 4 : 3, 96);
  } else {
    ptx::NamedBarrierSync(3, 96);
    b.out[Thread()] = shared.values[Thread() % 32];
  }
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
NamedBarrierTooSmall(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  shared.values[Thread()] = b.in[Thread()];
  ptx::NamedBarrierSync(1, kBug ? 32 : 96);
  b.out[Thread()] = shared.values[(Thread() + 32) % kThreads];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
NamedBarrierForParts(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (Thread() < 64) ptx::NamedBarrierSync(1, kBug ? 48 : 64);
  b.out[Thread()] = 0;
}

// One buffer, filled by a loop in which the barrier at its end is missing.
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
BufferReusedTooEarly(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Values& shared = SharedMemory<Values>();
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    shared.values[Thread()] = b.in[i * kThreads + Thread()];
    __syncthreads();
    for (int j = 0; j < 8; ++j) sum += shared.values[(Thread() + 8 * j) % kThreads];
    if (!kBug) __syncthreads();
  }
  b.out[Thread()] = sum;
}

constexpr KernelControl kControls[] = {
    TESSERA_CONTROL(MissingBarrierBeforeLoad, 1, kThreads, sizeof(Values), "", false),
    TESSERA_CONTROL(MissingBarrierBeforeStore, 3, kThreads, sizeof(Values), "race on shared", true),
    TESSERA_CONTROL(BarrierInDivergentCode, 1, kThreads, sizeof(Values), "__syncthreads", false),
    TESSERA_CONTROL(MissingSyncWarp, 1, kThreads, sizeof(Values), "shared offset", false),
    TESSERA_CONTROL(SharedIndexOffByOne, 1, kThreads, sizeof(Values),
                    "store of 4 bytes at offset 384 of shared memory, which has 384", false),
    TESSERA_CONTROL(UnwrittenShared, 1, kThreads, sizeof(Values), "nobody has written", false),
    TESSERA_CONTROL(TooLittleShared, 1, kThreads, sizeof(Values),
                    "uses 388 bytes of shared memory, the launch gives 384", false),
    TESSERA_CONTROL(HistogramReadTooEarly, 1, kThreads, sizeof(Counts), "race on shared", true),
    TESSERA_CONTROL(AtomicAndPlainShared, 1, kThreads, sizeof(Counts), "race on shared", true),
    TESSERA_CONTROL(NamedBarrierCount, 1, kThreads, sizeof(Values), "barrier 3 is used with",
                    false),
    TESSERA_CONTROL(NamedBarrierNumber, 1, kThreads, sizeof(Values), "deadlock", false),
    TESSERA_CONTROL(NamedBarrierTooSmall, 1, kThreads, sizeof(Values), "shared offset", false),
    TESSERA_CONTROL(NamedBarrierForParts, 1, kThreads, 0, "whole warps", false),
    TESSERA_CONTROL(BufferReusedTooEarly, 1, kThreads, sizeof(Values), "race on shared", true),
};

}  // namespace

ControlGroup SharedControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }

}  // namespace tessera::cuda
