// Copies of whole rows by the threads of a block, whatever their alignment.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_COPY_ROWS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_COPY_ROWS_H_

#include <cstdint>

#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

// Rows of `bytes` bytes, an even number.
struct RowCopy {
  const char* from;
  int64_t from_stride;
  char* to;
  int64_t to_stride;
  int64_t bytes;
  bool aligned;  // in whole units of 16 bytes

  SIMT_DEVICE void operator()(int64_t to_row, int64_t from_row) const {
    const char* source = from + from_row * from_stride;
    char* target = to + to_row * to_stride;
    const int64_t step = blockDim.x;
    if (aligned) {
      for (int64_t at = threadIdx.x; at < bytes / 16; at += step) {
        simt::Store16(target + 16 * at, simt::Load16(source + 16 * at));
      }
    } else {
      for (int64_t at = threadIdx.x; at < bytes / 2; at += step) {
        reinterpret_cast<uint16_t*>(target)[at] = reinterpret_cast<const uint16_t*>(source)[at];
      }
    }
  }
  SIMT_DEVICE void Clear(int64_t to_row) const {
    char* target = to + to_row * to_stride;
    for (int64_t at = threadIdx.x; at < bytes / 2; at += blockDim.x) {
      reinterpret_cast<uint16_t*>(target)[at] = 0;
    }
  }
};

struct CopiedRows {
  const void* from;
  int64_t from_stride;
  void* to;
  int64_t to_stride;
  int64_t bytes;
};
inline RowCopy MakeRowCopy(const CopiedRows& rows) {
  const uint64_t any =
      reinterpret_cast<uintptr_t>(rows.from) | reinterpret_cast<uintptr_t>(rows.to);
  const int64_t sizes = rows.from_stride | rows.to_stride | rows.bytes;
  return {.from = static_cast<const char*>(rows.from),
          .from_stride = rows.from_stride,
          .to = static_cast<char*>(rows.to),
          .to_stride = rows.to_stride,
          .bytes = rows.bytes,
          .aligned = any % 16 == 0 && sizes % 16 == 0};
}

// One block per row.
inline constexpr int kMaxCopyThreads = 256;
inline simt::LaunchShape CopyShape(cudaStream_t stream, int64_t rows, const RowCopy& copy) {
  const int64_t units = simt::CeilDiv<int64_t>(copy.bytes, copy.aligned ? 16 : 2);
  const int64_t wanted = simt::CeilDiv<int64_t>(units, simt::kWarpSize) * simt::kWarpSize;
  const int64_t threads = wanted < kMaxCopyThreads ? wanted : kMaxCopyThreads;
  return {.grid = dim3(static_cast<unsigned>(rows)),
          .block = dim3(static_cast<unsigned>(threads)),
          .stream = stream,
          .dependent = true};
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_COPY_ROWS_H_
