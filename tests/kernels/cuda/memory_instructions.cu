#include "kernels/cuda/simt/ptx.h"
#include "tests/kernels/cuda/memory_instructions.h"

namespace tessera::cuda {
namespace {

using simt::LaunchShape;
using simt::SharedMemory;
namespace ptx = simt::ptx;

SIMT_DEVICE uint32_t Thread() { return threadIdx.x; }

struct AtomicShared {
  uint64_t wide;
  uint32_t sum, largest, bits;
};

SIMT_KERNEL(64, 1) AtomicKernel(uint32_t* narrow, uint64_t* wide) {
  AtomicShared& shared = SharedMemory<AtomicShared>();
  const uint32_t i = blockIdx.x * 64 + Thread();
  const uint32_t scattered = i * 37 % 101;
  const uint32_t bit = 1U << (i % 32 / 2 * 2);
  const uint64_t large = (uint64_t{1} << 33) + i;
  if (Thread() == 0) {
    shared.wide = 0;
    shared.sum = shared.largest = shared.bits = 0;
  }
  __syncthreads();
  ptx::AtomicAddShared(&shared.wide, large);
  ptx::AtomicAddShared(&shared.sum, i + 1);
  ptx::AtomicMaxShared(&shared.largest, scattered);
  ptx::AtomicOrShared(&shared.bits, bit);
  ptx::AtomicAddRelaxed(&narrow[0], i + 1);
  ptx::AtomicMaxRelaxed(&narrow[1], scattered);
  ptx::AtomicOrRelaxed(&narrow[2], bit);
  ptx::AtomicAddAcqRel(&narrow[3], 1);
  ptx::AtomicAddRelaxed(&narrow[5], ptx::AtomicExchangeRelaxed(&narrow[4], i + 1));
  ptx::AtomicAddRelaxed(&wide[0], large);
  ptx::AtomicMaxRelaxed(&wide[1], uint64_t{i} << 40);
  __syncthreads();
  if (Thread() == 0) {
    wide[2 + blockIdx.x] = shared.wide;
    narrow[6 + 3 * blockIdx.x] = shared.sum;
    narrow[7 + 3 * blockIdx.x] = shared.largest;
    narrow[8 + 3 * blockIdx.x] = shared.bits;
  }
}

SIMT_KERNEL(64, 1) ReleaseKernel(ReleasedWords words) {
  if (Thread() == 0) {
    words.words[0] = 7;
    ptx::StoreRelease(&words.flags[0], 1);
    words.words[1] = 9;
    ptx::StoreReleaseSystem(&words.flags[1], 1);
  }
  if (Thread() == 32) {
    while (ptx::LoadAcquire(&words.flags[0]) == 0) ptx::NanoSleep(20);
    words.out[0] = words.words[0];
    while (ptx::LoadAcquireSystem(&words.flags[1]) == 0) ptx::NanoSleep(20);
    words.out[1] = words.words[1];
  }
}

struct CopyShared {
  alignas(16) uint32_t words[32][4];
};

SIMT_KERNEL(64, 1) CopyKernel(const uint32_t* in, uint32_t* out) {
  CopyShared& shared = SharedMemory<CopyShared>();
  const uint32_t lane = Thread() % 32;
  if (Thread() < 32) {
    ptx::CpAsync16(shared.words[lane], in + lane * 4, lane % 17);
    ptx::CpAsyncCommit();
    ptx::CpAsyncWait<0>();
    ptx::NamedBarrierArrive(1, 64);
  } else {
    ptx::NamedBarrierSync(1, 64);
    for (int i = 0; i < 4; ++i) out[lane * 4 + i] = shared.words[lane][i];
  }
}

SIMT_KERNEL(128, 1) MathKernel(int n, const float* in, uint32_t* out) {
  const int i = static_cast<int>(Thread());
  if (i >= n) return;
  const float x = in[i];
  const float size = simt::Abs(x);
  const uint32_t words[kMathWords] = {
      simt::BitsOf(ptx::Exp2(x)),     simt::BitsOf(simt::Exp(x)),
      simt::BitsOf(simt::Log(size)),  simt::BitsOf(simt::Sin(x)),
      simt::BitsOf(simt::Cos(x)),     simt::BitsOf(simt::Fma(x, 1.5F, 0.1F)),
      simt::BitsOf(simt::Sqrt(size)), simt::BitsOf(simt::Rsqrt(size)),
      simt::RoundToBf16(x),           simt::PackBf16(x, -x)};
  for (int word = 0; word < kMathWords; ++word) out[i * kMathWords + word] = words[word];
}

SIMT_KERNEL(64, 1) FirstKernel(uint32_t* between) {
  ptx::GridDependencyWait();
  ptx::GridDependencyLaunch();
  between[Thread()] = 3 * Thread();
}

SIMT_KERNEL(64, 1) SecondKernel(const uint32_t* between, uint32_t* out) {
  ptx::GridDependencyWait();
  out[Thread()] = between[Thread()] + 1;
}

// What older GPUs lack is not compiled for them.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SIMT_SM90(...) __VA_ARGS__
#else
#define SIMT_SM90(...)
#endif

struct BarrierShared {
  uint64_t full;
  uint32_t words[32];
};

SIMT_KERNEL(64, 1) BarrierKernel(uint32_t* out) {
  BarrierShared& shared = SharedMemory<BarrierShared>();
  const uint32_t lane = Thread() % 32;
  SIMT_SM90(if (Thread() == 0) {
    ptx::MBarrierInit(&shared.full, 32);
    ptx::FenceBarrierInit();
  })
  __syncthreads();
  if (Thread() < 32) {
    shared.words[lane] = 5 * lane;
    SIMT_SM90(ptx::MBarrierArrive(&shared.full);)
  } else {
    SIMT_SM90(ptx::MBarrierWait(&shared.full, 0);)
    out[lane] = shared.words[lane];
  }
}

struct PeerWord {
  uint32_t word;
};

SIMT_KERNEL(32, 1) PeerKernel(uint32_t* out) {
  PeerWord& shared = SharedMemory<PeerWord>();
  SIMT_SM90(const uint32_t rank = ptx::ClusterRank(); if (Thread() == 0) shared.word = 100 + rank;
            ptx::ClusterArrive(); ptx::ClusterWait();
            if (Thread() == 0) out[rank] = *ptx::PeerShared(&shared.word, rank ^ 1U);
            ptx::ClusterArrive(); ptx::ClusterWait();)
}

struct BoxShared {
  alignas(1024) uint16_t box[64 * 64];
  uint64_t full;
};

SIMT_KERNEL(64, 1) BoxKernel(const simt::TensorMap* map, uint16_t* out) {
  BoxShared& shared = SharedMemory<BoxShared>();
  SIMT_SM90(
      if (Thread() == 0) {
        ptx::MBarrierInit(&shared.full, 1);
        ptx::FenceBarrierInit();
      } __syncthreads();
      if (Thread() == 0) {
        ptx::FenceTensorMap(map);
        ptx::PrefetchTensorMap(map);
        ptx::MBarrierArriveExpectTx(&shared.full, sizeof(shared.box));
        ptx::TmaLoad2D(shared.box, map, &shared.full, 0, 0);
      } ptx::MBarrierWait(&shared.full, 0);)
  const uint32_t row = Thread();
  for (uint32_t column = 0; column < 64; ++column) {
    const uint32_t piece = column / 8 ^ row % 8;  // 128-byte swizzle
    out[row * 64 + column] = shared.box[row * 64 + piece * 8 + column % 8];
  }
}

struct SharedBoxShared {
  alignas(1024) uint16_t box[64 * 64];
  uint64_t full, done;
};

// Each block of a pair loads one half of the box for both.
SIMT_KERNEL(64, 1) SharedBoxKernel(const simt::TensorMap* map, uint16_t* out) {
  SharedBoxShared& shared = SharedMemory<SharedBoxShared>();
  SIMT_SM90(
      const uint32_t rank = ptx::ClusterRank(); if (Thread() == 0) {
        ptx::MBarrierInit(&shared.full, 1);
        ptx::MBarrierInit(&shared.done, 1);
        ptx::FenceBarrierInit();
      } ptx::ClusterArrive();
      ptx::ClusterWait(); if (Thread() == 0) {
        ptx::FenceTensorMap(map);
        ptx::MBarrierArriveExpectTx(&shared.full, sizeof(shared.box));
        ptx::TmaMulticast2D(&shared.box[rank * 32 * 64], map, &shared.full, 0,
                            static_cast<int>(rank) * 32, 3);
      } ptx::MBarrierWait(&shared.full, 0);
      if (Thread() == 0) ptx::MBarrierArriveRemote(&shared.done, rank ^ 1U);
      ptx::MBarrierWait(&shared.done, 0); out += rank * 64 * 64;)
  const uint32_t row = Thread();
  for (uint32_t column = 0; column < 64; ++column) {
    const uint32_t piece = column / 8 ^ row % 8;  // 128-byte swizzle
    out[row * 64 + column] = shared.box[row * 64 + piece * 8 + column % 8];
  }
}

LaunchShape Shape(cudaStream_t stream, int threads, size_t shared_bytes = 0) {
  return {.grid = dim3(1), .block = dim3(threads), .shared_bytes = shared_bytes, .stream = stream};
}

}  // namespace

cudaError_t AtomicWords(cudaStream_t stream, uint32_t* narrow, uint64_t* wide) {
  LaunchShape shape = Shape(stream, 64, sizeof(AtomicShared));
  shape.grid = dim3(2);
  return SIMT_LAUNCH(shape, AtomicKernel, narrow, wide);
}
cudaError_t ReleaseWords(cudaStream_t stream, const ReleasedWords& words) {
  return SIMT_LAUNCH(Shape(stream, 64), ReleaseKernel, words);
}
cudaError_t CopyWords(cudaStream_t stream, const uint32_t* in, uint32_t* out) {
  return SIMT_LAUNCH(Shape(stream, 64, sizeof(CopyShared)), CopyKernel, in, out);
}
cudaError_t MathWords(cudaStream_t stream, int n, const float* in, uint32_t* out) {
  return SIMT_LAUNCH(Shape(stream, 128), MathKernel, n, in, out);
}
cudaError_t DependentWords(cudaStream_t stream, uint32_t* between, uint32_t* out) {
  LaunchShape shape = Shape(stream, 64);
  shape.dependent = true;
  const cudaError_t error = SIMT_LAUNCH(shape, FirstKernel, between);
  if (error != cudaSuccess) return error;
  return SIMT_LAUNCH(shape, SecondKernel, between, out);
}
cudaError_t BarrierWords(cudaStream_t stream, uint32_t* out) {
  return SIMT_LAUNCH(Shape(stream, 64, sizeof(BarrierShared)), BarrierKernel, out);
}
cudaError_t PeerWords(cudaStream_t stream, uint32_t* out) {
  LaunchShape shape = Shape(stream, 32, sizeof(PeerWord));
  shape.grid = dim3(2);
  shape.cluster = dim3(2);
  return SIMT_LAUNCH(shape, PeerKernel, out);
}
cudaError_t BoxWords(cudaStream_t stream, const simt::TensorMap* map, uint16_t* out) {
  return SIMT_LAUNCH(Shape(stream, 64, sizeof(BoxShared)), BoxKernel, map, out);
}
cudaError_t SharedBoxWords(cudaStream_t stream, const simt::TensorMap* map, uint16_t* out) {
  LaunchShape shape = Shape(stream, 64, sizeof(SharedBoxShared));
  shape.grid = dim3(2);
  shape.cluster = dim3(2);
  return SIMT_LAUNCH(shape, SharedBoxKernel, map, out);
}

}  // namespace tessera::cuda
