// Rows to other places: gathered, packed for other ranks, shards of a vocabulary side by side. Each
// byte is read and written once.
#include "kernels/cuda/kernels/copy_rows.h"
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/rows.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {
namespace {

using simt::CeilDiv;
using simt::LaunchShape;

SIMT_KERNEL(kMaxCopyThreads, 4)
GatherRowsKernel(RowCopy copy, const int32_t* rows) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int32_t row = rows[blockIdx.x];
  if (row < 0) {
    copy.Clear(blockIdx.x);
  } else {
    copy(blockIdx.x, row);
  }
}

// A block of threads per pair and part of the cache.
SIMT_KERNEL(kMaxCopyThreads, 4)
CopyBlocksKernel(RowCopy copy, const int32_t* from, const int32_t* to, int32_t pairs,
                 int64_t blocks) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const auto pair = static_cast<int32_t>(blockIdx.x) % pairs;
  const int64_t first = static_cast<int32_t>(blockIdx.x) / pairs * blocks;
  copy(first + to[pair], first + from[pair]);
}

SIMT_KERNEL(kMaxCopyThreads, 4)
PackRowsKernel(RowCopy copy, const int32_t* send_counts, const int32_t* send_tokens,
               int32_t capacity) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const auto row = static_cast<int32_t>(blockIdx.x);
  if (row % capacity < send_counts[row / capacity]) copy(row, send_tokens[row]);
}

struct ResultLists {
  ChunkShape shape;
  const int32_t* headers;
  const int32_t* recv_counts;
  const int32_t* sorted_rows;
  const int32_t* result_rows;
};

SIMT_KERNEL(kMaxCopyThreads, 4)
PackResultsKernel(RowCopy copy, ResultLists lists) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const auto row = static_cast<int32_t>(blockIdx.x);
  const ChunkShape& shape = lists.shape;
  if (row % shape.capacity >= lists.recv_counts[row / shape.capacity]) return;
  const int32_t n = lists.headers[int64_t{row} * HeaderWords(shape.row_slots)];
  const int64_t first = lists.result_rows[row];
  for (int32_t i = 0; i < n; ++i) {
    copy(first + i, lists.sorted_rows[int64_t{row} * shape.row_slots + i]);
  }
}

constexpr int kConcatThreads = 256;

SIMT_KERNEL(kConcatThreads, 8)
ConcatColumnsKernel(ConcatColumnsLaunch args) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const auto column = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= args.cols) return;
  const int64_t row = blockIdx.x;
  const int64_t shard = column / args.width;
  args.out[row * args.out_stride + column] =
      args.shards[(shard * args.rows + row) * args.width + column % args.width];
}

}  // namespace

cudaError_t LaunchGatherRows(cudaStream_t stream, const GatherRowsLaunch& launch) {
  if (launch.count == 0) return cudaSuccess;
  const RowCopy copy = MakeRowCopy({.from = launch.x,
                                    .from_stride = launch.x_stride,
                                    .to = launch.out,
                                    .to_stride = launch.out_stride,
                                    .bytes = launch.row_bytes});
  return SIMT_LAUNCH(CopyShape(stream, launch.count, copy), GatherRowsKernel, copy, launch.rows);
}

cudaError_t LaunchCopyBlocks(cudaStream_t stream, const CopyBlocksLaunch& launch) {
  if (launch.pairs == 0 || launch.parts == 0) return cudaSuccess;
  const RowCopy copy = MakeRowCopy({.from = launch.cache,
                                    .from_stride = launch.block_bytes,
                                    .to = launch.cache,
                                    .to_stride = launch.block_bytes,
                                    .bytes = launch.block_bytes});
  return SIMT_LAUNCH(CopyShape(stream, launch.pairs * launch.parts, copy), CopyBlocksKernel, copy,
                     launch.from, launch.to, static_cast<int32_t>(launch.pairs), launch.blocks);
}

cudaError_t LaunchPackRows(cudaStream_t stream, const PackRowsLaunch& launch) {
  const RowCopy copy = MakeRowCopy({.from = launch.x,
                                    .from_stride = launch.x_stride,
                                    .to = launch.chunks,
                                    .to_stride = launch.row_bytes,
                                    .bytes = launch.row_bytes});
  const int64_t rows = int64_t{launch.shape.ranks} * launch.shape.capacity;
  return SIMT_LAUNCH(CopyShape(stream, rows, copy), PackRowsKernel, copy, launch.send_counts,
                     launch.send_tokens, launch.shape.capacity);
}

cudaError_t LaunchPackResults(cudaStream_t stream, const PackResultsLaunch& launch) {
  const RowCopy copy = MakeRowCopy({.from = launch.y,
                                    .from_stride = launch.y_stride,
                                    .to = launch.chunks,
                                    .to_stride = launch.row_bytes,
                                    .bytes = launch.row_bytes});
  const ResultLists lists{.shape = launch.shape,
                          .headers = launch.headers,
                          .recv_counts = launch.recv_counts,
                          .sorted_rows = launch.sorted_rows,
                          .result_rows = launch.result_rows};
  const int64_t rows = int64_t{launch.shape.ranks} * launch.shape.capacity;
  return SIMT_LAUNCH(CopyShape(stream, rows, copy), PackResultsKernel, copy, lists);
}

cudaError_t LaunchConcatColumns(cudaStream_t stream, const ConcatColumnsLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  const int warps = CeilDiv(launch.cols, simt::kWarpSize);
  const int threads =
      warps * simt::kWarpSize < kConcatThreads ? warps * simt::kWarpSize : kConcatThreads;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(launch.rows),
                                       static_cast<unsigned>(CeilDiv(launch.cols, threads))),
                          .block = dim3(static_cast<unsigned>(threads)),
                          .stream = stream,
                          .dependent = true};
  return SIMT_LAUNCH(shape, ConcatColumnsKernel, launch);
}

}  // namespace tessera::cuda
