// Counts of choices and rows, choices turned into slots, and the check of what came back.
#include "kernels/cuda/kernels/block_scan.h"
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/report_fault.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {
namespace {

using simt::CeilDiv;
using simt::kFullMask;
using simt::kWarpSize;
using simt::LaunchShape;

// One block per expert reads all choices: nothing is added atomically.
SIMT_KERNEL(kMaxScanThreads, 2)
CountChoicesKernel(CountChoicesLaunch args) {
  using Shared = WarpCounts<1>;
  Shared& shared = simt::SharedMemory<Shared>();
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  uint32_t count = 0;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < args.num_ids;
       i += static_cast<int32_t>(blockDim.x)) {
    count += args.ids[i] == expert ? 1 : 0;
  }
  count = __reduce_add_sync(kFullMask, count);
  if (Lane() == 0) shared.counts[Warp()][0] = static_cast<int32_t>(count);
  __syncthreads();
  if (threadIdx.x == 0) args.counts[expert] += SumOverWarps(shared, 0).total;
}

SIMT_KERNEL(kWarpSize, 1)
CountRowsKernel(const int32_t* num_rows, int64_t* total) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  if (threadIdx.x == 0) *total += *num_rows;
}

SIMT_KERNEL(kWarpSize, 1)
SumCountsKernel(const int64_t* counts, int64_t size, int64_t* sum) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  int64_t own = 0;
  for (int64_t i = threadIdx.x; i < size; i += kWarpSize) own += counts[i];
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    own += __shfl_xor_sync(kFullMask, own, lanes);
  }
  if (threadIdx.x == 0) *sum = own;
}

constexpr int kSlotThreads = 128;

SIMT_KERNEL(kSlotThreads, 8)
LocalSlotsKernel(LocalSlotsLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int64_t i = int64_t{blockIdx.x} * kSlotThreads + threadIdx.x;
  if (i >= args.num_ids) return;
  const int32_t id = args.ids[i];
  int32_t local = -1;
  if (id >= args.placement.num_experts) {
    Report(args.fault, FaultKind::kUnknownExpert, args.placement.num_experts);
  } else if (id >= 0) {
    const int32_t slot = SharedSlot(args.placement, id, i / args.top_k);
    if (slot / args.placement.slots_per_rank == args.rank) {
      local = slot % args.placement.slots_per_rank;
    }
  }
  args.slots[i] = local;
}

SIMT_KERNEL(kWarpSize, 1)
CheckReturnKernel(CheckReturnLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  for (auto r = static_cast<int32_t>(threadIdx.x); r < args.ranks; r += kWarpSize) {
    if (args.sent[r] == args.returned[r]) continue;
    Report(args.fault, FaultKind::kBadReturn, r, args.returned[r], args.sent[r]);
  }
}

LaunchShape OneWarp(cudaStream_t stream) {
  return {.grid = dim3(1), .block = dim3(kWarpSize), .stream = stream, .dependent = true};
}

}  // namespace

cudaError_t LaunchCountChoices(cudaStream_t stream, const CountChoicesLaunch& launch) {
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(launch.experts)),
                          .block = dim3(static_cast<unsigned>(ScanThreads(launch.num_ids))),
                          .shared_bytes = sizeof(WarpCounts<1>),
                          .stream = stream,
                          .dependent = true};
  return SIMT_LAUNCH(shape, CountChoicesKernel, launch);
}

cudaError_t LaunchCountRows(cudaStream_t stream, const int32_t* num_rows, int64_t* total) {
  return SIMT_LAUNCH(OneWarp(stream), CountRowsKernel, num_rows, total);
}

cudaError_t LaunchSumCounts(cudaStream_t stream, const int64_t* counts, int64_t size,
                            int64_t* sum) {
  return SIMT_LAUNCH(OneWarp(stream), SumCountsKernel, counts, size, sum);
}

cudaError_t LaunchLocalSlots(cudaStream_t stream, const LocalSlotsLaunch& launch) {
  if (launch.num_ids == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(launch.num_ids, kSlotThreads));
  const LaunchShape shape{
      .grid = dim3(blocks), .block = dim3(kSlotThreads), .stream = stream, .dependent = true};
  return SIMT_LAUNCH(shape, LocalSlotsKernel, launch);
}

cudaError_t LaunchCheckReturn(cudaStream_t stream, const CheckReturnLaunch& launch) {
  return SIMT_LAUNCH(OneWarp(stream), CheckReturnKernel, launch);
}

}  // namespace tessera::cuda
