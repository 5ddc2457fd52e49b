// Norm and rotation of query and key heads, and keys and values into the paged cache. Every element
// of qkv is read once, a query or a cache element is written once; a warp holds a head.
#include "kernels/cuda/kernels/row_access.h"
#include "kernels/cuda/kernels/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 4;  // per block

// Two consecutive elements with one access where both lie on its boundary.
SIMT_DEVICE void Load2(float (&values)[2], const Bf16* at, bool paired) {
  if (paired) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(at);
    values[0] = simt::LowBf16(pair);
    values[1] = simt::HighBf16(pair);
  } else {
    values[0] = AsFloat(at[0]);
    values[1] = AsFloat(at[1]);
  }
}
SIMT_DEVICE void Load2(float (&values)[2], const float* at, bool /*paired*/) {
  values[0] = at[0];
  values[1] = at[1];
}
SIMT_DEVICE void Store2(Bf16* at, const float (&values)[2], bool paired) {
  if (paired) {
    *reinterpret_cast<uint32_t*>(at) = simt::PackBf16(values[0], values[1]);
  } else {
    Assign(at[0], values[0]);
    Assign(at[1], values[1]);
  }
}
SIMT_DEVICE void Store2(float* at, const float (&values)[2], bool /*paired*/) {
  at[0] = values[0];
  at[1] = values[1];
}

template <typename T, typename Cache>
struct RopeRows {
  RowsOf<T> qkv;
  const float* q_norm;
  const float* k_norm;
  RowsOf<const float> cos_sin;
  const int32_t* positions;
  const int32_t* slots;
  RowsOf<Cache> k_cache;  // rows are blocks
  RowsOf<Cache> v_cache;
  int64_t rows;
  int32_t q_heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t block_size;
  float eps;
  bool paired;

  SIMT_DEVICE int64_t InBlock(int32_t slot, int32_t head) const {
    return (int64_t{head} * block_size + slot % block_size) * head_dim;
  }
};

// The scale that makes the mean square of a head 1. Lanes take two neighbours of the lower half and
// their partners of the upper one, as in the rotation.
template <typename T>
SIMT_DEVICE float HeadScale(const T* head, int head_dim, float eps, bool paired) {
  const int half = head_dim / 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  float sum = 0.0F;
  for (int i = 2 * lane; i < half; i += 2 * kWarpSize) {
    float low[2] = {};
    float high[2] = {};
    if (i + 1 < half) {
      Load2(low, head + i, paired);
      Load2(high, head + half + i, paired);
    } else {
      low[0] = AsFloat(head[i]);
      high[0] = AsFloat(head[half + i]);
    }
    sum += low[0] * low[0] + low[1] * low[1] + high[0] * high[0] + high[1] * high[1];
  }
  return simt::Rsqrt(WarpSum(sum) / static_cast<float>(head_dim) + eps);
}

SIMT_DEVICE void Rotate(float& low, float& high, const float* cos_sin, int half) {
  const float cos = cos_sin[0];
  const float sin = cos_sin[half];
  const float turned = low * cos - high * sin;
  high = high * cos + low * sin;
  low = turned;
}

// to = the head at `from`, normalised and rotated; the two may be the same place.
template <typename T, typename To>
SIMT_DEVICE void NormAndRotate(To* to, const T* from, const float* norm, const float* cos_sin,
                               int head_dim, float eps, bool paired) {
  const float scale = HeadScale(from, head_dim, eps, paired);
  const int half = head_dim / 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int i = 2 * lane; i < half; i += 2 * kWarpSize) {
    const bool two = i + 1 < half;
    float low[2] = {};
    float high[2] = {};
    if (two) {
      Load2(low, from + i, paired);
      Load2(high, from + half + i, paired);
    } else {
      low[0] = AsFloat(from[i]);
      high[0] = AsFloat(from[half + i]);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if (i + j >= half) continue;
      low[j] = low[j] * scale * norm[i + j];
      high[j] = high[j] * scale * norm[half + i + j];
      Rotate(low[j], high[j], cos_sin + i + j, half);
    }
    if (two) {
      Store2(to + i, low, paired);
      Store2(to + half + i, high, paired);
    } else {
      Assign(to[i], low[0]);
      Assign(to[half + i], high[0]);
    }
  }
}

template <typename T, typename To>
SIMT_DEVICE void CopyHead(To* to, const T* from, int head_dim, bool paired) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int i = 2 * lane; i < head_dim; i += 2 * kWarpSize) {
    float values[2];
    Load2(values, from + i, paired);
    Store2(to + i, values, paired);
  }
}

// One warp per head of a token.
template <typename T, typename Cache>
SIMT_KERNEL(kWarps* kWarpSize, 8)
QkNormRopeKernel(RopeRows<T, Cache> args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int32_t heads = args.q_heads + 2 * args.kv_heads;
  const int64_t warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  const int64_t row = warp / heads;
  if (row >= args.rows) return;
  const auto head = static_cast<int32_t>(warp % heads);
  T* values = args.qkv[row] + int64_t{head} * args.head_dim;
  const float* cos_sin = args.cos_sin[args.positions[row]];
  if (head < args.q_heads) {
    NormAndRotate(values, values, args.q_norm, cos_sin, args.head_dim, args.eps, args.paired);
    return;
  }
  const int32_t slot = args.slots[row];
  if (slot < 0) return;
  const int32_t block = slot / args.block_size;
  if (head < args.q_heads + args.kv_heads) {
    Cache* to = args.k_cache[block] + args.InBlock(slot, head - args.q_heads);
    NormAndRotate(to, values, args.k_norm, cos_sin, args.head_dim, args.eps, args.paired);
  } else {
    Cache* to = args.v_cache[block] + args.InBlock(slot, head - args.q_heads - args.kv_heads);
    CopyHead(to, values, args.head_dim, args.paired);
  }
}

// Whether elements 2 i and 2 i + 1 of every head share an access of two elements.
bool Paired(const Rows& rows, int32_t head_dim) {
  return rows.element == Element::kF32 || (reinterpret_cast<uintptr_t>(rows.data) % 4 == 0 &&
                                           rows.stride % 2 == 0 && head_dim % 4 == 0);
}

template <typename T, typename Cache>
cudaError_t Launch(cudaStream_t stream, const QkNormRopeLaunch& launch) {
  const RopeRows<T, Cache> args{.qkv = As<T>(launch.qkv),
                                .q_norm = launch.q_norm,
                                .k_norm = launch.k_norm,
                                .cos_sin = {launch.cos_sin, launch.cos_sin_stride},
                                .positions = launch.positions,
                                .slots = launch.slots,
                                .k_cache = As<Cache>(launch.k_cache),
                                .v_cache = As<Cache>(launch.v_cache),
                                .rows = launch.rows,
                                .q_heads = launch.q_heads,
                                .kv_heads = launch.kv_heads,
                                .head_dim = launch.head_dim,
                                .block_size = launch.block_size,
                                .eps = launch.eps,
                                .paired = Paired(launch.qkv, launch.head_dim) &&
                                          Paired(launch.k_cache, launch.head_dim) &&
                                          Paired(launch.v_cache, launch.head_dim)};
  const int64_t warps = launch.rows * (launch.q_heads + 2 * launch.kv_heads);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(CeilDiv<int64_t>(warps, kWarps))),
                          .block = dim3(kWarps * kWarpSize),
                          .stream = stream,
                          .dependent = true};
  return SIMT_LAUNCH(shape, (QkNormRopeKernel<T, Cache>), args);
}

template <typename T>
cudaError_t Launch(cudaStream_t stream, const QkNormRopeLaunch& launch) {
  return launch.k_cache.element == Element::kF32 ? Launch<T, float>(stream, launch)
                                                 : Launch<T, Bf16>(stream, launch);
}

}  // namespace

cudaError_t LaunchQkNormRope(cudaStream_t stream, const QkNormRopeLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  return launch.qkv.element == Element::kF32 ? Launch<float>(stream, launch)
                                             : Launch<Bf16>(stream, launch);
}

}  // namespace tessera::cuda
