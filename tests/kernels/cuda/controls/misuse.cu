// Instructions with operands that they do not take.
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::Bf16;
using simt::SharedMemory;
using simt::TensorMap;
namespace ptx = simt::ptx;

constexpr int kThreads = 128;

struct Tiles {
  alignas(1024) Bf16 a[128 * 64];
  alignas(1024) Bf16 b[128 * 64];
  alignas(16) uint64_t barrier[2];
};
struct alignas(2048) Overaligned {
  float value;
};

enum class Misuse {
  kOveralignedShared,
  kMisalignedAtomic,
  kAtomicOnHost,
  kMisalignedTarget,
  kTooManyBytes,
  kCopyFromHost,
  kMisalignedBarrier,
  kNoArrivals,
  kNotShared,
  kAnotherCluster,
  kOfAPeer,
  kArriveTwice,
  kTooManyThreads,
  kBarrierZero,
  kRank,
  kRegisters,
  kPartOfAWarp,
};

SIMT_DEVICE void DoOne(Misuse what, const ControlBuffers& b, const TensorMap& map) {
  Tiles& shared = SharedMemory<Tiles>();
  const auto thread = static_cast<int>(threadIdx.x);
  switch (what) {
    case Misuse::kOveralignedShared:
      SharedMemory<Overaligned>().value = 0;
      return;
    case Misuse::kMisalignedAtomic:
      ptx::AtomicAddRelaxed(
          reinterpret_cast<uint32_t*>(reinterpret_cast<unsigned char*>(b.words) + 2), 1);
      return;
    case Misuse::kAtomicOnHost:
      ptx::AtomicAddRelaxed(reinterpret_cast<uint32_t*>(b.host), 1);
      return;
    case Misuse::kMisalignedTarget:
      ptx::CpAsync16(shared.a + 8 * thread + 4, b.in);
      return;
    case Misuse::kTooManyBytes:
      ptx::CpAsync16(shared.a + 8 * thread, b.in, 17);
      return;
    case Misuse::kCopyFromHost:
      ptx::CpAsync16(shared.a + 8 * thread, b.host);
      return;
    case Misuse::kMisalignedBarrier:
      ptx::MBarrierInit(reinterpret_cast<uint64_t*>(shared.a + 2), 1);
      return;
    case Misuse::kNoArrivals:
      ptx::MBarrierInit(shared.barrier, 0);
      return;
    case Misuse::kNotShared:
      b.words[0] = ptx::SharedAddress(b.in);
      return;
    case Misuse::kAnotherCluster:
      *(shared.a + 2048 * blockDim.x) = Bf16{0};
      return;
    case Misuse::kOfAPeer:
      ptx::CpAsync16(ptx::PeerShared(shared.a, ptx::ClusterRank() ^ 1U), b.in);
      return;
    case Misuse::kArriveTwice:
      ptx::ClusterArrive();
      ptx::ClusterArrive();
      return;
    case Misuse::kTooManyThreads:
      ptx::NamedBarrierSync(1, 2 * kThreads);
      return;
    case Misuse::kBarrierZero:
      if (thread < 64) {
        ptx::NamedBarrierSync(0, kThreads);
      } else {
        __syncthreads();
      }
      return;
    case Misuse::kRank:
      if (thread != 0) return;
      ptx::MBarrierInit(shared.barrier, 1);
      ptx::FenceBarrierInit();
      ptx::TmaLoad3D(shared.a, &map, shared.barrier, 0, 0, 0);
      return;
    case Misuse::kRegisters:
      ptx::GiveBackRegisters<44>();
      return;
    case Misuse::kPartOfAWarp: {
      if (thread % 32 == 31) return;
      uint32_t r[4];
      ptx::LdMatrixX4(r, shared.a);
      return;
    }
  }
}

#define TESSERA_MISUSE(name)                                               \
  template <bool kBug>                                                     \
  SIMT_KERNEL(kThreads, 1)                                                 \
  Misuse##name(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) { \
    if (kBug) DoOne(Misuse::k##name, b, map);                              \
  }
TESSERA_MISUSE(OveralignedShared)
TESSERA_MISUSE(MisalignedAtomic)
TESSERA_MISUSE(AtomicOnHost)
TESSERA_MISUSE(MisalignedTarget)
TESSERA_MISUSE(TooManyBytes)
TESSERA_MISUSE(CopyFromHost)
TESSERA_MISUSE(MisalignedBarrier)
TESSERA_MISUSE(NoArrivals)
TESSERA_MISUSE(NotShared)
TESSERA_MISUSE(AnotherCluster)
TESSERA_MISUSE(OfAPeer)
TESSERA_MISUSE(ArriveTwice)
TESSERA_MISUSE(TooManyThreads)
TESSERA_MISUSE(BarrierZero)
TESSERA_MISUSE(Rank)
TESSERA_MISUSE(Registers)
TESSERA_MISUSE(PartOfAWarp)

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
BarrierUsedBeforeInit(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Tiles& shared = SharedMemory<Tiles>();
  if (threadIdx.x == 0) ptx::MBarrierInit(shared.barrier, kThreads);
  if (!kBug) {
    __syncthreads();
  } else if (threadIdx.x != 0) {  // long enough, but that is no order
    for (int i = 0; i < 300; ++i) ptx::NanoSleep(20);
  }
  ptx::MBarrierArrive(shared.barrier);
  ptx::MBarrierWait(shared.barrier, 0);
  b.out[threadIdx.x] = 0;
}

constexpr size_t kBytes = sizeof(Tiles);
#define TESSERA_MISUSED(name, expects) \
  TESSERA_CONTROL_SHAPED(Misuse##name, 2, kThreads, 2, kBytes, expects, false)

constexpr KernelControl kControls[] = {
    TESSERA_MISUSED(OveralignedShared, "aligned to 1024 bytes at most"),
    TESSERA_MISUSED(MisalignedAtomic, "an atomic of 4 bytes at"),
    TESSERA_MISUSED(AtomicOnHost, "an atomic on host memory"),
    TESSERA_MISUSED(MisalignedTarget, "a shared address that is not aligned to 16"),
    TESSERA_MISUSED(TooManyBytes, "cp.async of 17 bytes"),
    TESSERA_MISUSED(CopyFromHost, "host memory"),
    TESSERA_MISUSED(MisalignedBarrier, "not aligned to 8"),
    TESSERA_MISUSED(NoArrivals, "an mbarrier for 0 arrivals"),
    TESSERA_MISUSED(NotShared, "is not an address of shared memory"),
    TESSERA_MISUSED(AnotherCluster, "outside this cluster"),
    TESSERA_MISUSED(OfAPeer, "of this block's shared memory is needed"),
    TESSERA_MISUSED(ArriveTwice, "twice without a wait"),
    TESSERA_MISUSED(TooManyThreads, "waits for 256 threads, the block has 128"),
    TESSERA_MISUSED(BarrierZero, "barrier 0"),
    TESSERA_MISUSED(Rank, "a tensor map of rank 2 used with 3"),
    TESSERA_MISUSED(Registers, "setmaxnreg 44"),
    TESSERA_MISUSED(PartOfAWarp, "ldmatrix by a part of a warp"),
    TESSERA_CONTROL(BarrierUsedBeforeInit, 1, kThreads, kBytes,
                    "not ordered after its mbarrier.init", false),
};

}  // namespace

ControlGroup MisuseControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }

}  // namespace tessera::cuda
