// Rows between ranks in one kernel. Each block says to all peers that this GPU's memory is ready,
// waits until theirs is, writes its share of the rows there, says so, and waits for the peers'
// blocks of its number.
#include "kernels/cuda/kernels/peer_flags.h"
#include "kernels/cuda/kernels/report_fault.h"
#include "kernels/cuda/kernels/row_access.h"

namespace tessera::cuda {
namespace {

using simt::SharedMemory;
namespace ptx = simt::ptx;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int64_t kBytesPerBlock = 32 << 10;  // that are worth a block

struct ExchangeMemory {
  int32_t counts[kMaxPeers];  // rows for each rank
  uint32_t stopped;
};

SIMT_DEVICE void CopyByWarp(char* to, const char* from, int64_t bytes, int32_t unit) {
  const auto lane = static_cast<int64_t>(threadIdx.x % kWarpSize);
  if (unit == 16) {
    for (int64_t at = lane * 16; at < bytes; at += int64_t{kWarpSize} * 16) {
      simt::Store16(to + at, simt::Load16(from + at));
    }
  } else if (unit == 4) {
    for (int64_t at = lane * 4; at < bytes; at += int64_t{kWarpSize} * 4) {
      *reinterpret_cast<uint32_t*>(to + at) = *reinterpret_cast<const uint32_t*>(from + at);
    }
  } else {
    for (int64_t at = lane; at < bytes; at += kWarpSize) to[at] = from[at];
  }
}

// This rank's counts; -1 for every rank when one of them is impossible.
SIMT_DEVICE void FindCounts(const PeerExchangeLaunch& launch, ExchangeMemory& shared) {
  if (threadIdx.x == 0) {
    bool possible = true;
    for (int rank = 0; rank < launch.group.ranks; ++rank) {
      const int32_t count =
          launch.send_counts == nullptr ? launch.capacity : launch.send_counts[rank];
      shared.counts[rank] = count;
      possible = possible && count >= 0 && count <= launch.capacity;
    }
    for (int rank = 0; !possible && rank < launch.group.ranks; ++rank) shared.counts[rank] = -1;
    shared.stopped = 0;
  }
  __syncthreads();
}

// The rows of this block, a warp each.
SIMT_DEVICE void SendRows(const PeerExchangeLaunch& launch, const int32_t (&units)[kMaxPeerParts],
                          const ExchangeMemory& shared) {
  const int ranks = launch.group.ranks;
  const int own = launch.group.rank;
  const auto first = static_cast<int32_t>(blockIdx.x * kWarps + threadIdx.x / kWarpSize);
  const auto step = static_cast<int32_t>(gridDim.x * kWarps);
  for (int turn = 0; turn < ranks; ++turn) {
    const int peer = (own + turn) % ranks;  // no two ranks write to the same one at a time
    for (int32_t row = first; row < shared.counts[peer]; row += step) {
      const int64_t from = int64_t{peer} * launch.capacity + row;
      const int64_t to = int64_t{own} * launch.capacity + row;
      for (int part = 0; part < launch.num_parts; ++part) {
        const PeerPart& rows = launch.parts[part];
        CopyByWarp(launch.memory[peer] + rows.out + to * rows.row_bytes,
                   rows.in + from * rows.row_bytes, rows.row_bytes, units[part]);
      }
    }
  }
}

struct Units {
  int32_t of[kMaxPeerParts];  // bytes that are copied at once
};

SIMT_KERNEL(kThreads, 1)
PeerExchangeKernel(const SIMT_GRID_CONSTANT PeerExchangeLaunch launch,
                   const SIMT_GRID_CONSTANT Units units) {
  ptx::GridDependencyWait();
  ptx::GridDependencyLaunch();
  ExchangeMemory& shared = SharedMemory<ExchangeMemory>();
  const PeerGroup& group = launch.group;
  PeerState& own = StateOf(group, group.rank);
  const uint32_t number = own.exchanges[blockIdx.x] + 1;
  FindCounts(launch, shared);
  const int peer = static_cast<int>(threadIdx.x);
  const bool meets = peer < group.ranks && peer != group.rank;
  bool come = true;
  if (meets) {
    ptx::StoreReleaseSystem(&StateOf(group, peer).ready[blockIdx.x][group.rank], number);
    come = AwaitPeer(group, &own.ready[blockIdx.x][peer], number);
  }
  if (!AllCome(come, &shared.stopped)) return;
  SendRows(launch, units.of, shared);
  if (launch.send_counts != nullptr && blockIdx.x == 0 && peer < group.ranks) {
    reinterpret_cast<int32_t*>(launch.memory[peer] + launch.recv_counts)[group.rank] =
        shared.counts[peer];
  }
  __syncthreads();  // all is sent
  if (meets) {
    ptx::StoreReleaseSystem(&StateOf(group, peer).sent[blockIdx.x][group.rank], number);
    come = AwaitPeer(group, &own.sent[blockIdx.x][peer], number);
  }
  come = AllCome(come, &shared.stopped);
  if (threadIdx.x == 0) own.exchanges[blockIdx.x] = number;
  if (!come || launch.send_counts == nullptr || blockIdx.x != 0 || peer >= group.ranks) return;
  const auto* counts =
      reinterpret_cast<const int32_t*>(launch.memory[group.rank] + launch.recv_counts);
  if (counts[peer] < 0) Report(launch.fault, FaultKind::kBadRowCount, peer, counts[peer]);
}

}  // namespace

cudaError_t LaunchPeerExchange(cudaStream_t stream, const PeerExchangeLaunch& launch, int blocks) {
  Units units{};
  int64_t bytes = 0;
  for (int part = 0; part < launch.num_parts; ++part) {
    const PeerPart& rows = launch.parts[part];
    const int64_t all = static_cast<int64_t>(reinterpret_cast<uintptr_t>(rows.in)) | rows.out |
                        rows.row_bytes | 256;
    units.of[part] = all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
    bytes += rows.row_bytes * launch.capacity * launch.group.ranks;
  }
  const int64_t wanted = CeilDiv<int64_t>(bytes, kBytesPerBlock);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(wanted < 1 ? 1 : (wanted < blocks ? wanted : blocks))),
      .block = dim3(kThreads),
      .shared_bytes = sizeof(ExchangeMemory),
      .stream = stream,
      .dependent = true,
      .together = true};
  return SIMT_LAUNCH(shape, PeerExchangeKernel, launch, units);
}

}  // namespace tessera::cuda
