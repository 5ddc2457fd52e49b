// The (token, choice) pairs sorted by expert.
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/report_fault.h"
#include "kernels/cuda/kernels/sort_pairs.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {
namespace {

struct ChoiceList {
  MoePermuteLaunch args;

  SIMT_DEVICE int32_t Size() const { return args.tokens * args.top_k; }
  SIMT_DEVICE int32_t KeyOf(int32_t i) const {
    const int64_t at = i / args.top_k * args.ids_stride + i % args.top_k;
    const auto key = static_cast<uint32_t>(args.ids[at]) - static_cast<uint32_t>(args.expert_begin);
    return key < static_cast<uint32_t>(args.experts) ? static_cast<int32_t>(key) : -1;
  }
  SIMT_DEVICE void Place(int32_t i, int32_t place) const {
    SetPosition(i, place);
    args.row_token[place] = i / args.top_k;
  }
  SIMT_DEVICE void SetPosition(int32_t i, int32_t place) const {
    args.positions[i / args.top_k * args.positions_stride + i % args.top_k] = place;
  }
};

// Position -1 for pairs without an expert here, or for all.
SIMT_DEVICE void ClearPositions(const ChoiceList& list, bool all) {
  for (auto i = static_cast<int32_t>(threadIdx.x); i < list.Size();
       i += static_cast<int32_t>(blockDim.x)) {
    if (all || list.KeyOf(i) < 0) list.SetPosition(i, -1);
  }
}

// One block per expert; the first one also answers for the pairs that have none.
SIMT_KERNEL(kMaxScanThreads, 2)
MoePermuteKernel(MoePermuteLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const ChoiceList list{args};
  const auto key = static_cast<int32_t>(blockIdx.x);
  const KeyRange range = CountKey(list, key);
  const bool possible = range.all <= args.capacity;
  if (key == 0) ClearPositions(list, !possible);
  if (threadIdx.x == 0) {
    args.offsets[key] = possible ? range.first : 0;
    if (key == args.experts - 1) args.offsets[args.experts] = possible ? range.all : 0;
    if (key == 0 && !possible) Report(args.fault, FaultKind::kRepeatedExpert);
  }
  if (possible) PlaceKey(list, key, range);
}

}  // namespace

cudaError_t LaunchMoePermute(cudaStream_t stream, const MoePermuteLaunch& launch) {
  const int64_t pairs = int64_t{launch.tokens} * launch.top_k;
  return SIMT_LAUNCH(SortShape(stream, launch.experts, pairs), MoePermuteKernel, launch);
}

}  // namespace tessera::cuda
