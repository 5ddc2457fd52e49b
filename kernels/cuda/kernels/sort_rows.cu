// Received rows sorted by the slots of their headers. Headers come from peers: believe nothing. A
// chunk with an impossible row counts as empty, so that what follows stays within its bounds.
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/report_fault.h"
#include "kernels/cuda/kernels/sort_pairs.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {
namespace {

constexpr int32_t kNoRow = 0x7fffffff;

enum ChunkKind : int { kPairs, kFirstUnused, kFirstBad, kChunkKinds };
using ChunkShared = WarpCounts<kChunkKinds>;

SIMT_DEVICE const int32_t* HeaderOf(const SortRowsLaunch& args, int64_t row) {
  return args.headers + row * HeaderWords(args.shape.row_slots);
}

SIMT_DEVICE bool IsPossible(const ChunkShape& shape, const int32_t* header) {
  const int32_t n = header[RowHeader::kNumSlots];
  if (n < 1 || n > shape.row_slots) return false;
  for (int32_t i = 0; i < n; ++i) {
    const auto slot = static_cast<uint32_t>(header[RowHeader::kSlots + i]);
    if (slot >= static_cast<uint32_t>(shape.slots_per_rank)) return false;
  }
  return true;
}

SIMT_DEVICE int32_t WarpMin(int32_t value) {
  return static_cast<int32_t>(__reduce_min_sync(simt::kFullMask, static_cast<uint32_t>(value)));
}
SIMT_DEVICE int32_t Min(int32_t a, int32_t b) { return a < b ? a : b; }

// The least of what the warps found.
SIMT_DEVICE int32_t MinOverWarps(const ChunkShared& shared, ChunkKind kind) {
  int32_t least = kNoRow;
  for (unsigned warp = 0; warp < blockDim.x / simt::kWarpSize; ++warp) {
    least = Min(least, shared.counts[warp][kind]);
  }
  return least;
}

// Rows of the chunk: what its source said, or those before the first unused one.
SIMT_DEVICE int32_t CountRows(const SortRowsLaunch& args, int32_t source) {
  if (!args.padded) return args.recv_counts[source];
  ChunkShared& shared = simt::SharedMemory<ChunkShared>();
  const int64_t first = int64_t{source} * args.shape.capacity;
  int32_t unused = args.shape.capacity;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < args.shape.capacity;
       i += static_cast<int32_t>(blockDim.x)) {
    if (HeaderOf(args, first + i)[RowHeader::kNumSlots] == 0) unused = Min(unused, i);
  }
  unused = WarpMin(unused);
  if (Lane() == 0) shared.counts[Warp()][kFirstUnused] = unused;
  __syncthreads();
  return MinOverWarps(shared, kFirstUnused);
}

struct ChunkRows {
  int32_t count;
  int32_t pairs;         // of all rows
  int32_t pairs_before;  // of the rows before this warp's segment
};

// Checks `count` rows and counts their pairs; no rows when something is wrong with one.
SIMT_DEVICE ChunkRows CheckRows(const SortRowsLaunch& args, int32_t source, int32_t count) {
  ChunkShared& shared = simt::SharedMemory<ChunkShared>();
  const int64_t first = int64_t{source} * args.shape.capacity;
  const Segment segment = SegmentOfWarp(count);
  int32_t pairs = 0;
  int32_t bad = kNoRow;
  for (int32_t i = segment.begin + Lane(); i < segment.end; i += simt::kWarpSize) {
    const int32_t* header = HeaderOf(args, first + i);
    if (IsPossible(args.shape, header)) {
      pairs += header[RowHeader::kNumSlots];
    } else {
      bad = Min(bad, i);
    }
  }
  const uint32_t sum = __reduce_add_sync(simt::kFullMask, static_cast<uint32_t>(pairs));
  bad = WarpMin(bad);
  if (Lane() == 0) {
    shared.counts[Warp()][kPairs] = static_cast<int32_t>(sum);
    shared.counts[Warp()][kFirstBad] = bad;
  }
  __syncthreads();
  const BlockCount block = SumOverWarps(shared, kPairs);
  const int32_t first_bad = MinOverWarps(shared, kFirstBad);
  if (first_bad == kNoRow) return {count, block.total, block.before};
  if (threadIdx.x == 0) Report(args.fault, FaultKind::kBadRow, source, first_bad);
  return {0, 0, 0};
}

// result_rows: where the pairs of each row begin among the results of the chunk.
SIMT_DEVICE void WriteResultRows(const SortRowsLaunch& args, int32_t source,
                                 const ChunkRows& rows) {
  const int64_t first = int64_t{source} * args.shape.capacity;
  const auto first_result = static_cast<int32_t>(first * args.shape.row_slots);
  const Segment segment = SegmentOfWarp(rows.count);
  int32_t pairs = rows.pairs_before;
  for (int32_t begin = segment.begin; begin < segment.end; begin += simt::kWarpSize) {
    const int32_t i = begin + Lane();
    const bool used = i < segment.end;
    int32_t total = 0;
    const int32_t before =
        SumBefore(used ? HeaderOf(args, first + i)[RowHeader::kNumSlots] : 0, total);
    if (used) args.result_rows[first + i] = first_result + pairs + before;
    pairs += total;
  }
}

// One block per source.
SIMT_KERNEL(kMaxScanThreads, 2)
CheckChunksKernel(SortRowsLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const auto source = static_cast<int32_t>(blockIdx.x);
  int32_t count = CountRows(args, source);
  if (count < 0 || count > args.shape.capacity) {
    if (threadIdx.x == 0) Report(args.fault, FaultKind::kBadRowCount, source, count);
    count = 0;
  }
  const ChunkRows rows = CheckRows(args, source, count);
  if (threadIdx.x == 0) {
    args.recv_counts[source] = rows.count;
    args.pair_counts[source] = rows.pairs;
  }
  WriteResultRows(args, source, rows);
}

// Entry i of row r is pair r * row_slots + i.
struct ReceivedPairs {
  SortRowsLaunch args;

  SIMT_DEVICE int32_t Size() const {
    return args.shape.ranks * args.shape.capacity * args.shape.row_slots;
  }
  SIMT_DEVICE int32_t KeyOf(int32_t pair) const {
    const int32_t row = pair / args.shape.row_slots;
    if (row % args.shape.capacity >= args.recv_counts[row / args.shape.capacity]) return -1;
    const int32_t* header = HeaderOf(args, row);
    const int32_t i = pair % args.shape.row_slots;
    return i < header[RowHeader::kNumSlots] ? header[RowHeader::kSlots + i] : -1;
  }
  SIMT_DEVICE void Place(int32_t pair, int32_t place) const {
    args.sorted_rows[pair] = place;
    args.row_index[place] = pair / args.shape.row_slots;
  }
};

// One block per slot.
SIMT_KERNEL(kMaxScanThreads, 2)
SortRowsKernel(SortRowsLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const ReceivedPairs list{args};
  const auto slot = static_cast<int32_t>(blockIdx.x);
  const KeyRange range = CountKey(list, slot);
  if (threadIdx.x == 0) {
    args.offsets[slot] = range.first;
    if (slot == args.shape.slots_per_rank - 1) args.offsets[slot + 1] = range.all;
  }
  PlaceKey(list, slot, range);
}

}  // namespace

cudaError_t LaunchSortRows(cudaStream_t stream, const SortRowsLaunch& launch) {
  const ChunkShape& chunk = launch.shape;
  const simt::LaunchShape check{.grid = dim3(static_cast<unsigned>(chunk.ranks)),
                                .block = dim3(static_cast<unsigned>(ScanThreads(chunk.capacity))),
                                .shared_bytes = sizeof(ChunkShared),
                                .stream = stream,
                                .dependent = true};
  const cudaError_t error = SIMT_LAUNCH(check, CheckChunksKernel, launch);
  if (error != cudaSuccess) return error;
  const int64_t pairs = int64_t{chunk.ranks} * chunk.capacity * chunk.row_slots;
  return SIMT_LAUNCH(SortShape(stream, chunk.slots_per_rank, pairs), SortRowsKernel, launch);
}

}  // namespace tessera::cuda
