// Reading and writing eight consecutive elements of a row as floats, and the shapes of launches
// that do so. Groups of eight are the same whatever the alignment, so that no sum depends on it.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ROW_ACCESS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ROW_ACCESS_H_

#include <cstdint>

#include "kernels/cuda/kernels/matrix.h"
#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

using simt::Bf16;
using simt::CeilDiv;
using simt::kFullMask;
using simt::kWarpSize;
using simt::LaunchShape;

inline constexpr int kGroup = 8;  // elements that a thread treats at once

// Rows whose element type is known.
template <typename T>
struct RowsOf {
  T* data;
  int64_t stride;

  SIMT_HOST_DEVICE T* operator[](int64_t row) const { return data + row * stride; }
};
template <typename T, typename Void>
RowsOf<T> As(const BasicRows<Void>& rows) {
  return {static_cast<T*>(rows.data), rows.stride};
}

inline int64_t SizeOf(Element element) { return element == Element::kF32 ? 4 : 2; }

// Whether each whole group of a row may be read with 16-byte accesses.
template <typename Void>
bool Aligned(const BasicRows<Void>& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 &&
         rows.stride * SizeOf(rows.element) % 16 == 0;
}

SIMT_DEVICE float AsFloat(float value) { return value; }
SIMT_DEVICE float AsFloat(Bf16 value) { return simt::ToFloat(value); }
SIMT_DEVICE void Assign(float& to, float value) { to = value; }
SIMT_DEVICE void Assign(Bf16& to, float value) { to = simt::ToBf16(value); }
// `value` as it is after it was stored as T.
template <typename T>
SIMT_DEVICE float Stored(float value) {
  T element;
  Assign(element, value);
  return AsFloat(element);
}

SIMT_DEVICE void LoadGroup(float (&values)[kGroup], const float* at) {
  const uint4 low = simt::Load16(at);
  const uint4 high = simt::Load16(at + 4);
  const uint32_t bits[kGroup] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < kGroup; ++i) values[i] = simt::FloatBits(bits[i]);
}
SIMT_DEVICE void LoadGroup(float (&values)[kGroup], const Bf16* at) {
  const uint4 all = simt::Load16(at);
  const uint32_t pairs[kGroup / 2] = {all.x, all.y, all.z, all.w};
#pragma unroll
  for (int i = 0; i < kGroup / 2; ++i) {
    values[2 * i] = simt::LowBf16(pairs[i]);
    values[2 * i + 1] = simt::HighBf16(pairs[i]);
  }
}
SIMT_DEVICE void StoreGroup(float* at, const float (&values)[kGroup]) {
  const auto bits = [&](int i) { return simt::BitsOf(values[i]); };
  simt::Store16(at, uint4{bits(0), bits(1), bits(2), bits(3)});
  simt::Store16(at + 4, uint4{bits(4), bits(5), bits(6), bits(7)});
}
SIMT_DEVICE void StoreGroup(Bf16* at, const float (&values)[kGroup]) {
  const auto pair = [&](int i) { return simt::PackBf16(values[2 * i], values[2 * i + 1]); };
  simt::Store16(at, uint4{pair(0), pair(1), pair(2), pair(3)});
}

// Elements [at, at + 8) of a row, zeros at and beyond `cols`; at is a multiple of 8.
template <typename T>
SIMT_DEVICE void LoadColumns(float (&values)[kGroup], const T* row, int at, int cols,
                             bool aligned) {
  if (aligned && at + kGroup <= cols) {
    LoadGroup(values, row + at);
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroup; ++i) values[i] = at + i < cols ? AsFloat(row[at + i]) : 0.0F;
}
// The elements of [at, at + 8) that are below `cols`.
template <typename T>
SIMT_DEVICE void StoreColumns(T* row, int at, int cols, bool aligned,
                              const float (&values)[kGroup]) {
  if (aligned && at + kGroup <= cols) {
    StoreGroup(row + at, values);
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (at + i < cols) Assign(row[at + i], values[i]);
  }
}

// The same in all lanes, in an order that depends on nothing.
SIMT_DEVICE float WarpSum(float value) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kFullMask, value, lanes);
  }
  return value;
}

// One block per row and 2,048 columns: the block's column group of this thread.
inline constexpr int kMaxRowThreads = 256;
SIMT_DEVICE int ColumnGroup() {
  return static_cast<int>((blockIdx.y * blockDim.x + threadIdx.x) * kGroup);
}
inline LaunchShape RowShape(cudaStream_t stream, int64_t rows, int64_t cols) {
  const int64_t groups = CeilDiv<int64_t>(cols, kGroup);
  const int64_t warps =
      CeilDiv<int64_t>(groups < kMaxRowThreads ? groups : kMaxRowThreads, kWarpSize);
  const int64_t threads = warps * kWarpSize;
  return {.grid = dim3(static_cast<unsigned>(rows),
                       static_cast<unsigned>(CeilDiv<int64_t>(groups, threads))),
          .block = dim3(static_cast<unsigned>(threads)),
          .stream = stream,
          .dependent = true};
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ROW_ACCESS_H_
