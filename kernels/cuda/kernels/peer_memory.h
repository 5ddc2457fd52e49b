// Memory of all GPUs of a group that each of them can reach, and what kernels do with it by
// themselves: no message passes through the hosts or through NCCL.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_PEER_MEMORY_H_
#define TESSERA_KERNELS_CUDA_KERNELS_PEER_MEMORY_H_

#include <cstdint>

#include "kernels/cuda/kernels/fault.h"
#include "kernels/cuda/kernels/matrix.h"
#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

inline constexpr int kMaxPeers = 8;  // ranks of a group, those of one node

// A rank's view of its group's windows, of PeerWindowBytes each, zero before their first use by
// anybody.
struct PeerGroup {
  char* windows[kMaxPeers];  // of each rank, as this rank's GPU addresses them
  int32_t rank = 0;
  int32_t ranks = 1;
  // In host memory that the GPU reads: not zero from the moment when kernels shall no longer wait
  // for peers. What they make then is undefined, and so is all that the group does later.
  const uint32_t* stop = nullptr;
};

inline constexpr int kMaxPeerBlocks = 64;
inline constexpr int64_t kPeerBlockElements = 2048;  // that a block adds up

// For kernels of up to `blocks` blocks: no more than kMaxPeerBlocks, nor than the GPU has
// multiprocessors.
int64_t PeerWindowBytes(int ranks, int blocks);

// data[i] = the sum over ranks of element i of their data, added in fp32 in ascending rank order
// and rounded once. All ranks launch the same sums in the same order; each is one kernel, which
// sends, waits for its peers and adds. A block per kPeerBlockElements elements.
struct PeerSumLaunch {
  PeerGroup group;
  void* data = nullptr;
  Element element = Element::kF32;
  int64_t count = 0;
};
cudaError_t LaunchPeerSum(cudaStream_t stream, const PeerSumLaunch& launch);

// Rows between ranks, as Communicator::AllToAll(V) says, written straight into the peers' memory.
// All ranks launch the same exchanges with the same shapes in the same order. A rank's memory is
// written from the moment when its own kernel has begun, so all that its GPU did with it before is
// over, and rows and counts are there when the kernel has ended.
inline constexpr int kMaxPeerParts = 4;
struct PeerPart {
  const char* in = nullptr;  // [ranks, capacity] rows
  int64_t out = 0;           // offset of as many rows in every rank's memory
  int64_t row_bytes = 0;
};
struct PeerExchangeLaunch {
  PeerGroup group;
  char* memory[kMaxPeers] = {};  // of each rank
  PeerPart parts[kMaxPeerParts];
  int32_t num_parts = 0;
  int32_t capacity = 0;                  // rows of a chunk
  const int32_t* send_counts = nullptr;  // [ranks] or null: whole chunks
  int64_t recv_counts = 0;               // offset of [ranks] in every rank's memory
  // All ranks report when one has a count outside [0, capacity]; it sends no row then.
  Fault* fault = nullptr;
};
// At most `blocks` blocks, as of PeerWindowBytes.
cudaError_t LaunchPeerExchange(cudaStream_t stream, const PeerExchangeLaunch& launch, int blocks);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_PEER_MEMORY_H_
