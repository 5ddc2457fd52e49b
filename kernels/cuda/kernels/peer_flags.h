// The flags by which kernels of several GPUs wait for each other. They only grow: a peer may be
// ahead.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_PEER_FLAGS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_PEER_FLAGS_H_

#include <cstdint>

#include "kernels/cuda/kernels/peer_memory.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

using PeerFlags = uint32_t[kMaxPeerBlocks][kMaxPeers];  // by block and by the peer that sets them

// What lies at the beginning of a window. Blocks count for themselves, because not every kernel has
// all of them.
struct PeerState {
  PeerFlags flags;                     // sums that the peer has sent its part of
  PeerFlags ready;                     // exchanges that the peer's memory is ready for
  PeerFlags sent;                      // exchanges that the peer has sent its rows of
  uint32_t sums[kMaxPeerBlocks];       // that the block of this GPU has been through
  uint32_t exchanges[kMaxPeerBlocks];  // the same
};
static_assert(sizeof(PeerState) % 16 == 0);

SIMT_DEVICE PeerState& StateOf(const PeerGroup& group, int rank) {
  return *reinterpret_cast<PeerState*>(group.windows[rank]);
}

inline constexpr int kPollsPerLook = 32;  // at flags, between looks at the host's memory

// False: the host has stopped the group.
SIMT_DEVICE bool AwaitPeer(const PeerGroup& group, const uint32_t* flag, uint32_t number) {
  for (uint32_t polls = 1;; ++polls) {
    const uint32_t reached = simt::ptx::LoadAcquireSystem(flag);
    if (static_cast<int32_t>(reached - number) >= 0) return true;
    if (polls % kPollsPerLook == 0 && simt::ptx::LoadAcquireSystem(group.stop) != 0) return false;
  }
}

// Whether all threads of the block say so; after it all know what any of them has acquired.
// `stopped`, in shared memory, was zero before the block's last barrier.
SIMT_DEVICE bool AllCome(bool come, uint32_t* stopped) {
  if (!come) simt::ptx::AtomicOrShared(stopped, 1U);
  __syncthreads();
  return *stopped == 0;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_PEER_FLAGS_H_
