// TMA, mbarrier and clusters (sm_90).
#include "tests/kernels/cuda/controls/controls.h"

namespace tessera::cuda {
namespace {

using simt::Bf16;
using simt::SharedMemory;
using simt::TensorMap;
namespace ptx = simt::ptx;

constexpr int kThreads = 64;
constexpr int kBoxRows = 8, kBoxColumns = 64;
constexpr uint32_t kBoxBytes = kBoxRows * kBoxColumns * sizeof(Bf16);

struct alignas(1024) Box {
  Bf16 values[kBoxRows * kBoxColumns];
};
struct OneBox {
  Box box;
  uint64_t full;
};
struct TwoBoxes {
  Box box[2];
  uint64_t full[2], empty[2];
};
struct Value {
  float value;
};

SIMT_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }

struct LoadOptions {
  bool fence = true, wait = true, plain_store = false, misaligned = false;
  uint32_t parity = 0, bytes = kBoxBytes, count = 1, arrivals = 0;
};

// One thread loads a box, all read it.
SIMT_DEVICE void LoadBox(const ControlBuffers& b, const TensorMap& map, const LoadOptions& o) {
  OneBox& shared = SharedMemory<OneBox>();
  if (Thread() == 0) {
    ptx::MBarrierInit(&shared.full, o.count);
    if (o.fence) ptx::FenceBarrierInit();
  }
  __syncthreads();
  if (Thread() == 0) {
    ptx::MBarrierArriveExpectTx(&shared.full, o.bytes);
    for (uint32_t i = 0; i < o.arrivals; ++i) ptx::MBarrierArrive(&shared.full);
    ptx::TmaLoad2D(shared.box.values + (o.misaligned ? 64 : 0), &map, &shared.full, 0, 8);
    if (o.plain_store) shared.full = 0;
  }
  if (o.wait) ptx::MBarrierWait(&shared.full, o.parity);
  b.out[Thread()] = simt::ToFloat(shared.box.values[Thread() * 4]);
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MissingFenceBehindInit(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.fence = !kBug});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
BoxNotWaitedFor(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.wait = !kBug});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
ConsumerParity(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.parity = kBug ? 1U : 0U});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
TooManyBytesExpected(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.bytes = kBoxBytes + (kBug ? 16 : 0)});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MoreArrivalsThanCounted(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.count = 2, .arrivals = kBug ? 2U : 1U});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
FewerArrivalsThanCounted(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.count = kBug ? 2U : 1U});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PlainStoreToBarrier(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.plain_store = kBug});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MisalignedBox(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadBox(b, map, {.misaligned = kBug});
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
BarrierNotInitialised(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  OneBox& shared = SharedMemory<OneBox>();
  if (!kBug && Thread() == 0) ptx::MBarrierInit(&shared.full, kThreads);
  __syncthreads();
  ptx::MBarrierArrive(&shared.full);
  ptx::MBarrierWait(&shared.full, 0);
  b.out[Thread()] = 0;
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
EndsWithBoxInFlight(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  OneBox& shared = SharedMemory<OneBox>();
  if (Thread() != 0) return;
  ptx::MBarrierInit(&shared.full, 1);
  ptx::FenceBarrierInit();
  ptx::MBarrierArriveExpectTx(&shared.full, kBoxBytes);
  ptx::TmaLoad2D(&shared.box, &map, &shared.full, 0, 8);
  if (!kBug) ptx::MBarrierWait(&shared.full, 0);
  b.out[0] = 0;
}

template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MapWithoutFence(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  if (!kBug && Thread() == 0) ptx::FenceTensorMap(b.map);
  LoadBox(b, *b.map, {});
}

// A producer and a consumer with two stages.
template <int kBug>
SIMT_DEVICE void Pipeline(const ControlBuffers& b, const TensorMap& map) {
  TwoBoxes& shared = SharedMemory<TwoBoxes>();
  if (Thread() == 0) {
    for (int s = 0; s < 2; ++s) {
      ptx::MBarrierInit(&shared.full[s], 1);
      ptx::MBarrierInit(&shared.empty[s], 1);
    }
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  constexpr int kSteps = 6;
  if (Thread() == 0) {
    for (int i = 0; i < kSteps; ++i) {
      const auto parity = static_cast<uint32_t>(i / 2 % 2);
      ptx::MBarrierWait(&shared.empty[i % 2], kBug == 1 ? parity : parity ^ 1U);
      ptx::MBarrierArriveExpectTx(&shared.full[i % 2], kBoxBytes);
      ptx::TmaLoad2D(&shared.box[i % 2], &map, &shared.full[i % 2], 0, i * kBoxRows);
    }
  } else if (Thread() >= 32) {
    float sum = 0;
    for (int i = 0; i < kSteps; ++i) {
      ptx::MBarrierWait(&shared.full[i % 2], static_cast<uint32_t>(i / 2 % 2));
      if (kBug == 2 && Thread() == 32) ptx::MBarrierArrive(&shared.empty[i % 2]);
      sum += simt::ToFloat(shared.box[i % 2].values[Thread()]);
      __syncwarp();
      if (kBug != 2 && Thread() == 32) ptx::MBarrierArrive(&shared.empty[i % 2]);
    }
    b.out[Thread()] = sum;
  }
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
ProducerParity(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  Pipeline<kBug ? 1 : 0>(b, map);
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
StageReleasedTooEarly(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  Pipeline<kBug ? 2 : 0>(b, map);
}

// Each block of a pair stores a value; both read the other's.
template <int kBug>
SIMT_DEVICE void Exchange(const ControlBuffers& b) {
  Value& shared = SharedMemory<Value>();
  const uint32_t rank = ptx::ClusterRank();
  if (Thread() == 0) shared.value = b.in[blockIdx.x];
  ptx::ClusterArrive();
  if (kBug != 1) ptx::ClusterWait();
  const float other = ptx::PeerShared(&shared, kBug == 3 ? 2 : rank ^ 1U)->value;
  if (Thread() == 0) b.out[blockIdx.x] = other;
  if (kBug == 1) ptx::ClusterWait();
  if (kBug != 2) {
    ptx::ClusterArrive();
    ptx::ClusterWait();
  }
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PeerReadTooEarly(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Exchange<kBug ? 1 : 0>(b);
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
EndsWhilePeerReads(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Exchange<kBug ? 2 : 0>(b);
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
EndsBeforePeerReads(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Value& shared = SharedMemory<Value>();
  if (Thread() == 0) shared.value = b.in[blockIdx.x];
  ptx::ClusterArrive();
  ptx::ClusterWait();
  if (ptx::ClusterRank() == 1) {
    for (int i = 0; i < 300; ++i) ptx::NanoSleep(20);
    b.out[blockIdx.x * kThreads + threadIdx.x] = ptx::PeerShared(&shared, 0)->value;
  }
  if (!kBug) {
    ptx::ClusterArrive();
    ptx::ClusterWait();
  }
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
NoSuchPeer(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap) {
  Exchange<kBug ? 3 : 0>(b);
}

struct PairBox {
  Box box;
  uint64_t full, empty;
};
struct PairOptions {
  bool meet = true;        // before anybody uses the barriers of the other block
  bool peer_waits = true;  // for the first box
  bool read = false;       // the first box, before the arrival
  bool both_arrive = true;
  bool again = true;            // a second box, once both have arrived
  uint32_t arrivals_after = 0;  // by the peer at the end, which nobody waits for,
  uint32_t late = 0;            // from the block with this rank on, later than the other block
  uint32_t ranks = 3;
};

SIMT_DEVICE void BothMeet() {
  ptx::ClusterArrive();
  ptx::ClusterWait();
}

// The first block of a pair loads a box for both, and then another one to the same place.
SIMT_DEVICE void LoadForPair(const ControlBuffers& b, const TensorMap& map, const PairOptions& o) {
  PairBox& shared = SharedMemory<PairBox>();
  const uint32_t rank = ptx::ClusterRank();
  if (Thread() == 0) {
    ptx::MBarrierInit(&shared.full, 1);
    ptx::MBarrierInit(&shared.empty, o.both_arrive ? 2 : 1);
    ptx::FenceBarrierInit();
  }
  if (o.meet) {
    BothMeet();
  } else {
    __syncthreads();
  }
  for (uint32_t round = 0; round < (o.again ? 2 : 1); ++round) {
    if (Thread() == 0) {
      if (round > 0 && rank == 0) ptx::MBarrierWait(&shared.empty, 0);
      ptx::MBarrierArriveExpectTx(&shared.full, kBoxBytes);
      if (rank == 0) ptx::TmaMulticast2D(&shared.box, &map, &shared.full, 0, 8, o.ranks);
    }
    if (rank == 0 || o.peer_waits) ptx::MBarrierWait(&shared.full, round);
    if (round > 0 || o.read) {
      b.out[blockIdx.x * kThreads + threadIdx.x] = simt::ToFloat(shared.box.values[Thread() * 4]);
    }
    __syncthreads();
    if (o.again && round == 0 && Thread() == 0 && (rank == 0 || o.both_arrive)) {
      ptx::MBarrierArriveRemote(&shared.empty, 0);
    }
  }
  if (o.arrivals_after == 0) return;
  if (rank == o.late) {
    for (int i = 0; i < 300; ++i) ptx::NanoSleep(20);
  }
  if (rank == 1 && Thread() == 0) ptx::MBarrierArriveRemote(&shared.empty, 0);
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PeerNotInitialised(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.meet = !kBug});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PeerDoesNotWait(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.peer_waits = !kBug, .again = false});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PeerReadsUnordered(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.read = kBug});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PeerNotAsked(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.both_arrive = !kBug});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
ArrivalNotAwaited(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.arrivals_after = kBug ? 1U : 0U, .late = 0});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
ArrivalTooLate(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.arrivals_after = kBug ? 1U : 0U, .late = 1});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MulticastToNobody(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.ranks = kBug ? 0U : 3U});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
MulticastToNoPeer(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.ranks = kBug ? 7U : 3U});
}
template <bool kBug>
SIMT_KERNEL(kThreads, 1)
PeerLeftOut(ControlBuffers b, const SIMT_GRID_CONSTANT TensorMap map) {
  LoadForPair(b, map, {.ranks = kBug ? 1U : 3U});
}

constexpr KernelControl kControls[] = {
    TESSERA_CONTROL(MissingFenceBehindInit, 1, kThreads, sizeof(OneBox), "without a fence", false),
    TESSERA_CONTROL(BoxNotWaitedFor, 1, kThreads, sizeof(OneBox), "shared offset", false),
    TESSERA_CONTROL(ConsumerParity, 1, kThreads, sizeof(OneBox), "shared offset", false),
    TESSERA_CONTROL(TooManyBytesExpected, 1, kThreads, sizeof(OneBox), "and 16 bytes", false),
    TESSERA_CONTROL(MoreArrivalsThanCounted, 1, kThreads, sizeof(OneBox), "arrivals", false),
    TESSERA_CONTROL(FewerArrivalsThanCounted, 1, kThreads, sizeof(OneBox),
                    "lacks 1 arrivals and 0 bytes", false),
    TESSERA_CONTROL(PlainStoreToBarrier, 1, kThreads, sizeof(OneBox), "of the mbarrier at", false),
    TESSERA_CONTROL(MisalignedBox, 1, kThreads, sizeof(OneBox), "not a multiple of 1024", false),
    TESSERA_CONTROL(BarrierNotInitialised, 1, kThreads, sizeof(OneBox), "no initialised mbarrier",
                    false),
    TESSERA_CONTROL(EndsWithBoxInFlight, 1, kThreads, sizeof(OneBox), "ends with TMA transfers",
                    false),
    TESSERA_CONTROL(MapWithoutFence, 1, kThreads, sizeof(OneBox), "without fence.proxy.tensormap",
                    false),
    TESSERA_CONTROL(ProducerParity, 1, kThreads, sizeof(TwoBoxes), "deadlock", false),
    TESSERA_CONTROL(StageReleasedTooEarly, 1, kThreads, sizeof(TwoBoxes), "race on shared", true),
    TESSERA_CONTROL_SHAPED(PeerReadTooEarly, 4, kThreads, 2, sizeof(Value), "shared offset", false),
    TESSERA_CONTROL_SHAPED(EndsWhilePeerReads, 4, kThreads, 2, sizeof(Value), "shared memory",
                           false),
    TESSERA_CONTROL_SHAPED(EndsBeforePeerReads, 4, kThreads, 2, sizeof(Value),
                           "a block that has ended", false),
    TESSERA_CONTROL_SHAPED(NoSuchPeer, 4, kThreads, 2, sizeof(Value),
                           "rank 2 of a cluster of 2 blocks", false),
    TESSERA_CONTROL_SHAPED(PeerNotInitialised, 4, kThreads, 2, sizeof(PairBox), "mbarrier", false),
    TESSERA_CONTROL_SHAPED(PeerDoesNotWait, 4, kThreads, 2, sizeof(PairBox), "shared memory",
                           false),
    TESSERA_CONTROL_SHAPED(PeerReadsUnordered, 4, kThreads, 2, sizeof(PairBox), "race on shared",
                           true),
    TESSERA_CONTROL_SHAPED(PeerNotAsked, 4, kThreads, 2, sizeof(PairBox), "race on shared", true),
    TESSERA_CONTROL_SHAPED(ArrivalNotAwaited, 4, kThreads, 2, sizeof(PairBox),
                           "has arrived at its mbarrier", false),
    TESSERA_CONTROL_SHAPED(ArrivalTooLate, 4, kThreads, 2, sizeof(PairBox),
                           "an mbarrier of a block that has ended", false),
    TESSERA_CONTROL_SHAPED(MulticastToNobody, 4, kThreads, 2, sizeof(PairBox),
                           "a multicast to no block", false),
    TESSERA_CONTROL_SHAPED(MulticastToNoPeer, 4, kThreads, 2, sizeof(PairBox),
                           "rank 2 of a cluster of 2 blocks", false),
    TESSERA_CONTROL_SHAPED(PeerLeftOut, 4, kThreads, 2, sizeof(PairBox), "deadlock", false),
};

}  // namespace

ControlGroup TmaControls() { return {kControls, sizeof(kControls) / sizeof(kControls[0])}; }
const KernelControl& OneBoxControl() { return kControls[0]; }

}  // namespace tessera::cuda
