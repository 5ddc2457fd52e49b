// The router's choice: a warp per token. Logits are read once from memory and then, per choice,
// from the L1 cache: the next choice is the largest logit that comes after the last one in the
// order (larger first, then lower index), so nothing must be remembered.
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/row_access.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 4;  // per block

// Greater for what comes first: larger logits, then lower experts. No expert has the key 0.
struct Key {
  uint32_t value;
  uint32_t place;

  SIMT_DEVICE bool operator<(const Key& other) const {
    return value != other.value ? value < other.value : place < other.place;
  }
};

SIMT_DEVICE Key MakeKey(float logit, int expert) {
  const float number = logit + 0.0F;  // -0 is 0
  const uint32_t bits = simt::BitsOf(number);
  return {.value = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U,
          .place = ~static_cast<uint32_t>(expert)};
}
SIMT_DEVICE int ExpertOf(const Key& key) { return static_cast<int>(~key.place); }

// The greatest key of the row below `last`, in all lanes.
SIMT_DEVICE Key NextKey(const float* logits, int experts, const Key& last) {
  Key best{0, 0};
  for (int e = static_cast<int>(threadIdx.x) % kWarpSize; e < experts; e += kWarpSize) {
    const Key key = MakeKey(logits[e], e);
    if (key < last && best < key) best = key;
  }
  const uint32_t value = __reduce_max_sync(kFullMask, best.value);
  const uint32_t place = __reduce_max_sync(kFullMask, best.value == value ? best.place : 0);
  return {value, place};
}

SIMT_DEVICE void ChooseNone(const RouteTopKLaunch& args, int64_t row, int lane) {
  for (int j = lane; j < args.top_k; j += kWarpSize) {
    args.ids[row * args.ids_stride + j] = -1;
    args.weights[row * args.weights_stride + j] = 0.0F;
  }
}

SIMT_KERNEL(kWarps* kWarpSize, 8)
RouteTopKKernel(RouteTopKLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (row >= args.rows) return;
  int64_t tokens = args.logits_rows;
  if (args.num_rows != nullptr) {
    const int64_t counted = int64_t{*args.num_rows} - args.first_row;
    tokens = counted < tokens ? counted : tokens;
  }
  if (row >= tokens) {
    ChooseNone(args, row, lane);
    return;
  }
  const float* logits = args.logits + row * args.logits_stride;
  Key last = NextKey(logits, args.experts, {~0U, ~0U});
  const float largest = logits[ExpertOf(last)];
  float sum = 0.0F;
  for (int e = lane; e < args.experts; e += kWarpSize) sum += simt::Exp(logits[e] - largest);
  sum = WarpSum(sum);
  float* weights = args.weights + row * args.weights_stride;
  float chosen = 0.0F;
  for (int j = 0; j < args.top_k; ++j) {
    const int expert = ExpertOf(last);
    const float weight = simt::Exp(logits[expert] - largest);
    chosen += weight;
    if (lane == j % kWarpSize) {
      args.ids[row * args.ids_stride + j] = expert;
      weights[j] = weight;
    }
    if (j + 1 < args.top_k) last = NextKey(logits, args.experts, last);
  }
  const float total = args.normalize ? chosen : sum;
  for (int j = lane; j < args.top_k; j += kWarpSize) weights[j] /= total;
}

}  // namespace

cudaError_t LaunchRouteTopK(cudaStream_t stream, const RouteTopKLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(launch.rows, kWarps));
  const LaunchShape shape{
      .grid = dim3(blocks), .block = dim3(kWarps * kWarpSize), .stream = stream, .dependent = true};
  return SIMT_LAUNCH(shape, RouteTopKKernel, launch);
}

}  // namespace tessera::cuda
