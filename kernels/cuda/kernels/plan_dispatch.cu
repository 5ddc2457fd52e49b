// Which rows a rank sends where: one block per destination reads all choices, warps own consecutive
// tokens, and ballots and scans give rows and pairs their places. Every block checks all choices,
// so that all agree that there is nothing to send when one is impossible.
#include "kernels/cuda/kernels/block_scan.h"
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/report_fault.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {
namespace {

enum PlanKind : int { kRows, kPairs, kUnknown, kRepeated, kPlanKinds };
using PlanShared = WarpCounts<kPlanKinds>;

struct Planner {
  PlanDispatchLaunch args;
  int32_t to;

  // The slot of choice j of token t, -1 for none.
  SIMT_DEVICE int32_t SlotOf(int32_t t, int32_t j) const {
    const int32_t id = args.ids[int64_t{t} * args.shape.top_k + j];
    return id < 0 ? -1 : ChooseSlot(args.placement, id, args.rank, t);
  }
  // The rank that choice j goes to, -1 for none.
  SIMT_DEVICE int32_t RankOf(int32_t t, int32_t j) const {
    const int32_t slot = SlotOf(t, j);
    return slot < 0 ? -1 : slot / args.shape.slots_per_rank;
  }
  // Choices of token t that go to `rank`.
  SIMT_DEVICE int32_t ChoicesFor(int32_t t, int32_t rank) const {
    int32_t choices = 0;
    for (int32_t j = 0; j < args.shape.top_k; ++j) choices += RankOf(t, j) == rank ? 1 : 0;
    return choices;
  }
  // Whether choice j is the first of token t that goes to its rank.
  SIMT_DEVICE bool IsFirst(int32_t t, int32_t j, int32_t rank) const {
    for (int32_t earlier = 0; earlier < j; ++earlier) {
      if (RankOf(t, earlier) == rank) return false;
    }
    return true;
  }
  // Ranks below `limit` that token t goes to.
  SIMT_DEVICE int32_t RanksBelow(int32_t t, int32_t limit) const {
    int32_t ranks = 0;
    for (int32_t j = 0; j < args.shape.top_k; ++j) {
      const int32_t rank = RankOf(t, j);
      if (rank >= 0 && rank < limit && IsFirst(t, j, rank)) ++ranks;
    }
    return ranks;
  }
  SIMT_DEVICE bool HasUnknown(int32_t t) const {
    for (int32_t j = 0; j < args.shape.top_k; ++j) {
      if (args.ids[int64_t{t} * args.shape.top_k + j] >= args.placement.num_experts) return true;
    }
    return false;
  }
  // More choices on one rank than it has slots.
  SIMT_DEVICE bool HasRepeated(int32_t t) const {
    if (args.shape.row_slots == args.shape.top_k) return false;
    for (int32_t j = 0; j < args.shape.top_k; ++j) {
      const int32_t rank = RankOf(t, j);
      if (rank >= 0 && ChoicesFor(t, rank) > args.shape.row_slots) return true;
    }
    return false;
  }
  SIMT_DEVICE int32_t* TokenRows(int32_t t) const {
    return args.token_rows + int64_t{t} * args.shape.rows_per_token;
  }
};

struct PlanCounts {
  BlockCount rows;
  BlockCount pairs;
  int32_t unknown;
  int32_t repeated;
};

SIMT_DEVICE PlanCounts CountTokens(const Planner& planner) {
  PlanShared& shared = simt::SharedMemory<PlanShared>();
  uint32_t counts[kPlanKinds] = {};
  const Segment segment = SegmentOfWarp(planner.args.tokens);
  for (int32_t t = segment.begin + Lane(); t < segment.end; t += simt::kWarpSize) {
    if (planner.HasUnknown(t)) {
      ++counts[kUnknown];
      continue;
    }
    const auto choices = static_cast<uint32_t>(planner.ChoicesFor(t, planner.to));
    counts[kRows] += choices > 0 ? 1 : 0;
    counts[kPairs] += choices;
    counts[kRepeated] += planner.HasRepeated(t) ? 1 : 0;
  }
#pragma unroll
  for (int kind = 0; kind < kPlanKinds; ++kind) {
    const uint32_t sum = __reduce_add_sync(simt::kFullMask, counts[kind]);
    if (Lane() == 0) shared.counts[Warp()][kind] = static_cast<int32_t>(sum);
  }
  __syncthreads();
  return {.rows = SumOverWarps(shared, kRows),
          .pairs = SumOverWarps(shared, kPairs),
          .unknown = SumOverWarps(shared, kUnknown).total,
          .repeated = SumOverWarps(shared, kRepeated).total};
}

// Row `row` for token t; its pairs begin at `pair` among the results of the chunk.
SIMT_DEVICE void WriteRow(const Planner& planner, int32_t t, int32_t row, int32_t pair) {
  const PlanDispatchLaunch& args = planner.args;
  const int32_t m = args.shape.row_slots;
  int32_t* header = args.headers + int64_t{row} * HeaderWords(m);
  int32_t n = 0;
  for (int32_t j = 0; j < args.shape.top_k; ++j) {
    const int32_t slot = planner.SlotOf(t, j);
    if (slot < 0 || slot / args.shape.slots_per_rank != planner.to) continue;
    const int64_t choice = int64_t{t} * args.shape.top_k + j;
    SetHeaderSlot(header, m, n, slot % args.shape.slots_per_rank, args.weights[choice]);
    args.pair_rows[choice] = pair + n;
    ++n;
  }
  header[RowHeader::kNumSlots] = n;
  header[RowHeader::kToken] = t;
  args.send_tokens[row] = t;
  planner.TokenRows(t)[planner.RanksBelow(t, planner.to)] = row;
}

SIMT_DEVICE void WriteTokens(const Planner& planner, const PlanCounts& counts) {
  const ChunkShape& shape = planner.args.shape;
  int32_t row = planner.to * shape.capacity + counts.rows.before;
  int32_t pair = planner.to * shape.capacity * shape.row_slots + counts.pairs.before;
  const Segment segment = SegmentOfWarp(planner.args.tokens);
  for (int32_t begin = segment.begin; begin < segment.end; begin += simt::kWarpSize) {
    const int32_t t = begin + Lane();
    const int32_t choices = t < segment.end ? planner.ChoicesFor(t, planner.to) : 0;
    const uint32_t ballot = __ballot_sync(simt::kFullMask, choices > 0);
    int32_t pairs = 0;
    const int32_t before = SumBefore(choices, pairs);
    if (choices > 0) WriteRow(planner, t, row + LanesBefore(ballot), pair + before);
    row += __popc(ballot);
    pair += pairs;
  }
}

// -1 for what goes nowhere: the first block's task. With `all` nothing goes anywhere.
SIMT_DEVICE void ClearTokens(const Planner& planner, bool all) {
  const PlanDispatchLaunch& args = planner.args;
  for (auto t = static_cast<int32_t>(threadIdx.x); t < args.tokens;
       t += static_cast<int32_t>(blockDim.x)) {
    for (int32_t j = 0; j < args.shape.top_k; ++j) {
      const int64_t choice = int64_t{t} * args.shape.top_k + j;
      if (all || args.ids[choice] < 0) args.pair_rows[choice] = -1;
    }
    const int32_t used = all ? 0 : planner.RanksBelow(t, args.shape.ranks);
    for (int32_t i = used; i < args.shape.rows_per_token; ++i) planner.TokenRows(t)[i] = -1;
  }
}

SIMT_DEVICE void ClearUnused(const Planner& planner, int32_t rows) {
  const ChunkShape& shape = planner.args.shape;
  for (int32_t i = rows + static_cast<int32_t>(threadIdx.x); i < shape.capacity;
       i += static_cast<int32_t>(blockDim.x)) {
    const int64_t row = int64_t{planner.to} * shape.capacity + i;
    planner.args.headers[row * HeaderWords(shape.row_slots) + RowHeader::kNumSlots] = 0;
  }
}

// One block per destination.
SIMT_KERNEL(kMaxScanThreads, 2)
PlanDispatchKernel(PlanDispatchLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const Planner planner{args, static_cast<int32_t>(blockIdx.x)};
  const PlanCounts counts = CountTokens(planner);
  const bool possible = counts.unknown == 0 && counts.repeated == 0;
  const int32_t rows = possible ? counts.rows.total : 0;
  if (threadIdx.x == 0) {
    args.send_counts[planner.to] = rows;
    args.pair_counts[planner.to] = possible ? counts.pairs.total : 0;
    if (planner.to == 0 && !possible) {
      Report(args.fault,
             counts.unknown > 0 ? FaultKind::kUnknownExpert : FaultKind::kRepeatedExpert,
             args.placement.num_experts);
    }
  }
  if (planner.to == 0) ClearTokens(planner, !possible);
  if (args.clear_unused) ClearUnused(planner, rows);
  if (possible) WriteTokens(planner, counts);
}

}  // namespace

cudaError_t LaunchPlanDispatch(cudaStream_t stream, const PlanDispatchLaunch& launch) {
  const simt::LaunchShape shape{.grid = dim3(static_cast<unsigned>(launch.shape.ranks)),
                                .block = dim3(static_cast<unsigned>(ScanThreads(launch.tokens))),
                                .shared_bytes = sizeof(PlanShared),
                                .stream = stream,
                                .dependent = true};
  return SIMT_LAUNCH(shape, PlanDispatchKernel, launch);
}

}  // namespace tessera::cuda
