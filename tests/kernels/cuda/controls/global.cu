// Global memory, within a launch.
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::Bf16;
using simt::Load16;
using simt::SharedMemory;
using simt::Store16;
using simt::TensorMap;
namespace ptx = simt::ptx;

constexpr int kThreads = 64;

SIMT_DEVICE int At() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
LoadBeyondTheEnd(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.out[At()] = b.in[b.kFloats - kThreads + At() + (kBug ? 1 : 0)];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
StoreBeforeTheBegin(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.out[At() - (kBug ? 1 : 0)] = 1;
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
UnwrittenGlobal(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.out[At()] = kBug ? b.fresh[At()] : b.in[At()];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MisalignedVector(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Store16(b.out + 4 * At(), Load16(b.in + 4 * At() + (kBug ? 1 : 0)));
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MisalignedWord(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(b.in) + (kBug ? 2 : 0);
  b.out[At()] = reinterpret_cast<const float*>(bytes)[At()];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
HostPointer(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.out[At()] = kBug ? b.host[At()] : b.in[At()];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
RowsOfTheNextBlock(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.out[At() + (kBug && threadIdx.x == 63 ? 1 : 0)] = b.in[At()];
}

// Each thread has half a word.
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
NeighboursInAWord(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  b.x[kBug && At() == 7 ? 6 : At()] = Bf16{static_cast<uint16_t>(At())};
}

struct LastShared {
  uint32_t last;
};

// Partial sums; the block that arrives last reads them all.
template <bool kBarrier, bool kRelease>
SIMT_DEVICE void LastBlock(const ControlBuffers& b) {
  LastShared& shared = SharedMemory<LastShared>();
  b.out[At()] = b.in[At()];
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 0) {
    const uint32_t before =
        kRelease ? ptx::AtomicAddAcqRel(b.words, 1) : ptx::AtomicAddRelaxed(b.words, 1);
    shared.last = before == gridDim.x - 1 ? 1 : 0;
  }
  __syncthreads();
  if (shared.last == 0) return;
  float sum = 0;
  for (uint32_t block = 0; block < gridDim.x; ++block) {
    sum += b.out[block * blockDim.x + threadIdx.x];
  }
  b.out[At()] = sum;
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingBarrierBeforeRelease(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  LastBlock<!kBug, true>(b);
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingRelease(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  LastBlock<true, !kBug>(b);
}

// Fences around relaxed atomics do what acquire and release do.
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingFence(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (threadIdx.x != 0) return;
  b.out[blockIdx.x] = b.in[blockIdx.x];
  __threadfence();
  const uint32_t before = ptx::AtomicAddRelaxed(b.words, 1);
  if (!kBug) __threadfence();
  if (before != gridDim.x - 1) return;
  for (uint32_t block = 0; block < gridDim.x; ++block) b.out[gridDim.x] += b.out[block];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
FenceOfABlockOnly(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (threadIdx.x != 0) return;
  b.out[blockIdx.x] = b.in[blockIdx.x];
  kBug ? __threadfence_block() : __threadfence();
  const uint32_t before = ptx::AtomicAddRelaxed(b.words, 1);
  kBug ? __threadfence_block() : __threadfence();
  if (before != gridDim.x - 1) return;
  for (uint32_t block = 0; block < gridDim.x; ++block) b.out[gridDim.x] += b.out[block];
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
AtomicAndPlainGlobal(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (kBug && At() == 70) {
    b.words[3] += 1;
  } else {
    ptx::AtomicAddRelaxed(&b.words[3], 1);
  }
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
FlagThatNobodySets(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (At() == 0) ptx::StoreRelease(&b.words[kBug ? 1 : 0], 1);
  if (At() == 1) {
    while (ptx::LoadAcquire(&b.words[0]) == 0) ptx::NanoSleep(20);
  }
}

struct Large {
  float values[24];
};

// Compilers copy such a struct by calling memcpy. That call of clang's does not reach the emulator.
#ifndef __clang__
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
StructCopyBeyondTheEnd(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (At() != 0) return;
  const int at = b.kFloats - 24 + (kBug ? 1 : 0);
  *reinterpret_cast<Large*>(b.out) = *reinterpret_cast<const Large*>(b.in + at);
}
#endif

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
Trapped(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (kBug && b.in[At()] == 9.0F) __trap();
}

constexpr KernelControl kControls[] = {
    TESSERA_CONTROL(LoadBeyondTheEnd, 1, kThreads, 0,
                    "load of 4 bytes at offset 16384 of an allocation of 16384 bytes", false),
    TESSERA_CONTROL(StoreBeforeTheBegin, 1, kThreads, 0, "store of 4 bytes at offset", false),
    TESSERA_CONTROL(UnwrittenGlobal, 2, kThreads, 0, "nobody has written", false),
    TESSERA_CONTROL(MisalignedVector, 2, kThreads, 0, "not aligned", false),
    TESSERA_CONTROL(MisalignedWord, 2, kThreads, 0, "not aligned", false),
    TESSERA_CONTROL(HostPointer, 2, kThreads, 0, "host memory", false),
    TESSERA_CONTROL(RowsOfTheNextBlock, 2, kThreads, 0, "race on global memory", true),
    TESSERA_CONTROL(NeighboursInAWord, 1, kThreads, 0, "race on global memory", true),
    TESSERA_CONTROL(MissingBarrierBeforeRelease, 5, kThreads, sizeof(LastShared),
                    "race on global memory", true),
    TESSERA_CONTROL(MissingRelease, 5, kThreads, sizeof(LastShared), "race on global memory", true),
    TESSERA_CONTROL(MissingFence, 5, kThreads, 0, "race on global memory", true),
    TESSERA_CONTROL(FenceOfABlockOnly, 5, kThreads, 0, "race on global memory", true),
    TESSERA_CONTROL(AtomicAndPlainGlobal, 2, kThreads, 0, "race on global memory", true),
    TESSERA_CONTROL(FlagThatNobodySets, 1, kThreads, 0, "deadlock", false),
#ifndef __clang__
    TESSERA_CONTROL(StructCopyBeyondTheEnd, 1, kThreads, 0, "load of", false),
#endif
    TESSERA_CONTROL(Trapped, 1, kThreads, 0, "__trap", false),
};

SIMT_KERNEL(128, 1)
AddOneKernel(const float* in, float* out, bool waits_for_grid) {
  if (waits_for_grid) ptx::GridDependencyWait();
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x] + 1.0F;
  ptx::GridDependencyLaunch();
}

SIMT_KERNEL(1, 1) SetFlagKernel(uint32_t* flag, float* value, bool system) {
  *value = 7;
  system ? ptx::StoreReleaseSystem(flag, 1) : ptx::StoreRelease(flag, 1);
}

SIMT_KERNEL(1, 1)
AwaitFlagKernel(const uint32_t* flag, const float* value, float* out, bool system) {
  while ((system ? ptx::LoadAcquireSystem(flag) : ptx::LoadAcquire(flag)) == 0) {
    ptx::NanoSleep(20);
  }
  *out = *value;
}

}  // namespace

ControlGroup GlobalControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }

cudaError_t AddOne(cudaStream_t stream, const float* in, float* out, bool waits_for_grid) {
  const simt::LaunchShape shape{
      .grid = dim3(2), .block = dim3(128), .stream = stream, .dependent = true};
  return SIMT_LAUNCH(shape, AddOneKernel, in, out, waits_for_grid);
}
cudaError_t AddOneByTooLargeBlocks(cudaStream_t stream, const float* in, float* out) {
  const simt::LaunchShape shape{.grid = dim3(1), .block = dim3(256), .stream = stream};
  return SIMT_LAUNCH(shape, AddOneKernel, in, out, true);
}
cudaError_t SetFlag(cudaStream_t stream, uint32_t* flag, float* value, bool system) {
  const simt::LaunchShape shape{.grid = dim3(1), .block = dim3(1), .stream = stream};
  return SIMT_LAUNCH(shape, SetFlagKernel, flag, value, system);
}
cudaError_t AwaitFlag(cudaStream_t stream, const uint32_t* flag, const float* value, float* out,
                      bool system) {
  const simt::LaunchShape shape{
      .grid = dim3(1), .block = dim3(1), .stream = stream, .together = true};
  return SIMT_LAUNCH(shape, AwaitFlagKernel, flag, value, out, system);
}

}  // namespace tessera::cuda
