// The sum over ranks in one kernel. Each block sends its part of the data into all peers' windows,
// says so with a flag in each, waits for theirs and adds up what has come.
//
// A window has two slots per sender and block, for even and odd sums. A slot is written again two
// sums later, when its reader has long finished: the peer's flag of the sum in between says that
// the kernels before it have ended. So sums need no second round of flags.
#include "kernels/cuda/kernels/peer_flags.h"
#include "kernels/cuda/kernels/row_access.h"

namespace tessera::cuda {
namespace {

using simt::SharedMemory;
namespace ptx = simt::ptx;

constexpr int kSlotBytes = static_cast<int>(kPeerBlockElements * sizeof(float));
// Where `sender` leaves its part of this block's sum in the window of `owner`.
template <typename T>
SIMT_DEVICE T* SlotOf(const PeerGroup& group, int owner, int sender, uint32_t sum) {
  const int64_t slot = (int64_t{blockIdx.x} * 2 + sum % 2) * group.ranks + sender;
  return reinterpret_cast<T*>(group.windows[owner] + sizeof(PeerState) + slot * kSlotBytes);
}

template <typename T>
struct PeerArray {
  T* data;
  int64_t count;
  bool aligned;
};

template <typename T>
SIMT_KERNEL(kMaxRowThreads, 1)
PeerSumKernel(const SIMT_GRID_CONSTANT PeerGroup group, PeerArray<T> array) {
  ptx::GridDependencyWait();
  ptx::GridDependencyLaunch();
  PeerState& own = StateOf(group, group.rank);
  const uint32_t sum = own.sums[blockIdx.x] + 1;
  const int64_t begin = int64_t{blockIdx.x} * kPeerBlockElements;
  const int64_t left = array.count - begin;
  const int cols = static_cast<int>(left < kPeerBlockElements ? left : kPeerBlockElements);
  const int at = static_cast<int>(threadIdx.x) * kGroup;
  float values[kGroup];
  LoadColumns(values, array.data + begin, at, cols, array.aligned);
  for (int step = 1; step < group.ranks; ++step) {
    const int peer = (group.rank + step) % group.ranks;  // no two ranks begin with the same one
    StoreGroup(SlotOf<T>(group, peer, group.rank, sum) + at, values);
  }
  uint32_t& stopped = SharedMemory<uint32_t>();
  if (threadIdx.x == 0) stopped = 0;
  __syncthreads();  // all is sent
  const int peer = static_cast<int>(threadIdx.x);
  bool come = true;
  if (peer < group.ranks && peer != group.rank) {
    ptx::StoreReleaseSystem(&StateOf(group, peer).flags[blockIdx.x][group.rank], sum);
    come = AwaitPeer(group, &own.flags[blockIdx.x][peer], sum);
  }
  come = AllCome(come, &stopped);
  if (threadIdx.x == 0) own.sums[blockIdx.x] = sum;
  if (!come) return;
  const auto load = [&](float(&part)[kGroup], int rank) {
    if (rank != group.rank) return LoadGroup(part, SlotOf<T>(group, group.rank, rank, sum) + at);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) part[i] = values[i];
  };
  float sums[kGroup];
  load(sums, 0);
  for (int rank = 1; rank < group.ranks; ++rank) {
    float part[kGroup];
    load(part, rank);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) sums[i] += part[i];
  }
  StoreColumns(array.data + begin, at, cols, array.aligned, sums);
}

template <typename T>
cudaError_t LaunchAs(const LaunchShape& shape, const PeerSumLaunch& launch) {
  const PeerArray<T> array{.data = static_cast<T*>(launch.data),
                           .count = launch.count,
                           .aligned = reinterpret_cast<uintptr_t>(launch.data) % 16 == 0};
  return SIMT_LAUNCH(shape, PeerSumKernel<T>, launch.group, array);
}

}  // namespace

int64_t PeerWindowBytes(int ranks, int blocks) {
  return static_cast<int64_t>(sizeof(PeerState)) + int64_t{blocks} * 2 * ranks * kSlotBytes;
}

cudaError_t LaunchPeerSum(cudaStream_t stream, const PeerSumLaunch& launch) {
  if (launch.count == 0) return cudaSuccess;
  const int64_t groups = CeilDiv<int64_t>(launch.count, kGroup);
  const int64_t warps =
      CeilDiv<int64_t>(groups < kMaxRowThreads ? groups : kMaxRowThreads, kWarpSize);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(CeilDiv<int64_t>(launch.count, kPeerBlockElements))),
      .block = dim3(static_cast<unsigned>(warps * kWarpSize)),
      .shared_bytes = sizeof(uint32_t),
      .stream = stream,
      .dependent = true,
      .together = true};
  return launch.element == Element::kF32 ? LaunchAs<float>(shape, launch)
                                         : LaunchAs<Bf16>(shape, launch);
}

}  // namespace tessera::cuda
