// Sums and maxima over the threads of a block, or of a team: the blocks of a cluster that share a
// row. Of integers only: the results depend neither on the order nor on the number of threads.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_BLOCK_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_BLOCK_H_

#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

inline constexpr int kMaxWarps = 16;

// The larger score wins; of equal ones the lower id.
struct Best {
  uint64_t score = 0;
  uint32_t id = 0xffffffffU;
};

// Each is used by one call at a time; two barriers lie between the writes of two calls.
struct BlockScratch {
  uint64_t words[kMaxWarps];
  uint32_t ids[kMaxWarps];
  // Of this block, for the others of the team.
  uint64_t own_word;
  uint32_t own_id;
};

SIMT_DEVICE uint64_t JoinWords(uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; }
SIMT_DEVICE uint64_t ShuffleXor64(uint64_t value, int lanes) {
  const auto low = static_cast<uint32_t>(value);
  const auto high = static_cast<uint32_t>(value >> 32);
  return JoinWords(__shfl_xor_sync(simt::kFullMask, low, lanes),
                   __shfl_xor_sync(simt::kFullMask, high, lanes));
}
SIMT_DEVICE uint64_t ShuffleUp64(uint64_t value, int lanes) {
  const auto low = static_cast<uint32_t>(value);
  const auto high = static_cast<uint32_t>(value >> 32);
  return JoinWords(__shfl_up_sync(simt::kFullMask, low, lanes),
                   __shfl_up_sync(simt::kFullMask, high, lanes));
}

SIMT_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }
SIMT_DEVICE int Threads() { return static_cast<int>(blockDim.x); }
SIMT_DEVICE int Warps() { return Threads() / simt::kWarpSize; }

SIMT_DEVICE Best BetterOf(const Best& a, const Best& b) {
  return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}

// The blocks of a team, 1 or those of a cluster.
template <int kBlocks>
struct Team {
  SIMT_DEVICE static int Rank() {
    return kBlocks == 1 ? 0 : static_cast<int>(simt::ptx::ClusterRank());
  }
  SIMT_DEVICE static int Thread() { return Rank() * ThreadsOfBlock() + ThreadOfBlock(); }
  SIMT_DEVICE static int Threads() { return kBlocks * ThreadsOfBlock(); }
  // Also makes visible what the others wrote before.
  SIMT_DEVICE static void Sync() {
    if constexpr (kBlocks == 1) {
      __syncthreads();
    } else {
      __syncwarp();  // the instructions are for whole warps
      simt::ptx::ClusterArrive();
      simt::ptx::ClusterWait();
    }
  }
  // The same object in the shared memory of block `rank`.
  template <typename T>
  SIMT_DEVICE static const T& Of(const T& own, int rank) {
    if constexpr (kBlocks == 1) {
      return own;
    } else {
      return *simt::ptx::PeerShared(&own, static_cast<uint32_t>(rank));
    }
  }

 private:
  SIMT_DEVICE static int ThreadOfBlock() { return static_cast<int>(threadIdx.x); }
  SIMT_DEVICE static int ThreadsOfBlock() { return static_cast<int>(blockDim.x); }
};

// The best of all threads, in every thread.
SIMT_DEVICE Best BlockBest(Best best, BlockScratch& scratch) {
  for (int lanes = simt::kWarpSize / 2; lanes > 0; lanes /= 2) {
    const Best other{ShuffleXor64(best.score, lanes),
                     __shfl_xor_sync(simt::kFullMask, best.id, lanes)};
    best = BetterOf(best, other);
  }
  if (Thread() % simt::kWarpSize == 0) {
    scratch.words[Thread() / simt::kWarpSize] = best.score;
    scratch.ids[Thread() / simt::kWarpSize] = best.id;
  }
  __syncthreads();
  for (int warp = 0; warp < Warps(); ++warp) {
    best = BetterOf(best, Best{scratch.words[warp], scratch.ids[warp]});
  }
  __syncthreads();
  return best;
}

// The sum of all threads, in every thread.
SIMT_DEVICE uint64_t BlockSum(uint64_t value, BlockScratch& scratch) {
  for (int lanes = simt::kWarpSize / 2; lanes > 0; lanes /= 2) value += ShuffleXor64(value, lanes);
  if (Thread() % simt::kWarpSize == 0) scratch.words[Thread() / simt::kWarpSize] = value;
  __syncthreads();
  uint64_t sum = 0;
  for (int warp = 0; warp < Warps(); ++warp) sum += scratch.words[warp];
  __syncthreads();
  return sum;
}

SIMT_DEVICE void SetOwn(const Best& own, BlockScratch& scratch) {
  if (Thread() != 0) return;
  scratch.own_word = own.score;
  scratch.own_id = own.id;
}
template <int kBlocks>
SIMT_DEVICE Best OwnOf(const BlockScratch& scratch, int rank) {
  return {Team<kBlocks>::Of(scratch.own_word, rank), Team<kBlocks>::Of(scratch.own_id, rank)};
}

// What `combine` makes of the values of all blocks, which every thread of a block has.
template <int kBlocks, typename Combine>
SIMT_DEVICE Best TeamCombine(const Best& own, BlockScratch& scratch, const Combine& combine) {
  if (kBlocks == 1) return own;
  SetOwn(own, scratch);
  Team<kBlocks>::Sync();
  Best all = OwnOf<kBlocks>(scratch, 0);
  for (int rank = 1; rank < kBlocks; ++rank) all = combine(all, OwnOf<kBlocks>(scratch, rank));
  Team<kBlocks>::Sync();
  return all;
}
template <int kBlocks>
SIMT_DEVICE Best TeamBest(const Best& best, BlockScratch& scratch) {
  return TeamCombine<kBlocks>(BlockBest(best, scratch), scratch,
                              [](const Best& a, const Best& b) { return BetterOf(a, b); });
}
template <int kBlocks>
SIMT_DEVICE uint64_t TeamSum(uint64_t value, BlockScratch& scratch) {
  const Best sum{BlockSum(value, scratch), 0};
  return TeamCombine<kBlocks>(sum, scratch,
                              [](const Best& a, const Best& b) {
                                return Best{a.score + b.score, 0};
                              })
      .score;
}

struct Prefix {
  uint64_t before;  // of the threads before this one
  uint64_t total;
};
SIMT_DEVICE Prefix BlockPrefix(uint64_t value, BlockScratch& scratch) {
  const int lane = Thread() % simt::kWarpSize;
  uint64_t through = value;
  for (int lanes = 1; lanes < simt::kWarpSize; lanes *= 2) {
    const uint64_t other = ShuffleUp64(through, lanes);
    if (lane >= lanes) through += other;
  }
  if (lane == simt::kWarpSize - 1) scratch.words[Thread() / simt::kWarpSize] = through;
  __syncthreads();
  Prefix prefix{through - value, 0};
  for (int warp = 0; warp < Warps(); ++warp) {
    if (warp < Thread() / simt::kWarpSize) prefix.before += scratch.words[warp];
    prefix.total += scratch.words[warp];
  }
  __syncthreads();
  return prefix;
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_BLOCK_H_
