// Results of experts added up per token, in a fixed order: over the experts of a rank, over those
// that a peer's row chose, over ranks. Every summand is read once and every sum is written once.
#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/kernels/row_access.h"

namespace tessera::cuda {
namespace {

// A list of summands tells for row `row` how many places it has, which row lies in place i (-1:
// none) and the row's weight.
struct WeightedPlaces {
  const int32_t* positions;
  int64_t positions_stride;
  const float* weights;
  int64_t weights_stride;
  int32_t top_k;

  SIMT_DEVICE int32_t Size(int64_t /*row*/) const { return top_k; }
  SIMT_DEVICE int32_t Row(int64_t row, int32_t i) const {
    return positions[row * positions_stride + i];
  }
  SIMT_DEVICE float Weight(int64_t row, int32_t i) const {
    return weights[row * weights_stride + i];
  }
};

struct RankRows {
  const int32_t* token_rows;
  int32_t rows_per_token;

  SIMT_DEVICE int32_t Size(int64_t /*row*/) const { return rows_per_token; }
  SIMT_DEVICE int32_t Row(int64_t row, int32_t i) const {
    return token_rows[row * rows_per_token + i];
  }
  SIMT_DEVICE float Weight(int64_t /*row*/, int32_t /*i*/) const { return 1.0F; }
};

struct ReceivedRows {
  ChunkShape shape;
  const int32_t* headers;
  const int32_t* recv_counts;
  const int32_t* sorted_rows;

  SIMT_DEVICE const int32_t* Header(int64_t row) const {
    return headers + row * HeaderWords(shape.row_slots);
  }
  SIMT_DEVICE bool IsUsed(int64_t row) const {
    return row % shape.capacity < recv_counts[row / shape.capacity];
  }
  SIMT_DEVICE int32_t Size(int64_t row) const { return Header(row)[RowHeader::kNumSlots]; }
  SIMT_DEVICE int32_t Row(int64_t row, int32_t i) const {
    return sorted_rows[row * shape.row_slots + i];
  }
  SIMT_DEVICE float Weight(int64_t row, int32_t i) const {
    return HeaderWeight(Header(row), shape.row_slots, i);
  }
};

SIMT_DEVICE bool IsUsed(const WeightedPlaces& /*list*/, int64_t /*row*/) { return true; }
SIMT_DEVICE bool IsUsed(const RankRows& /*list*/, int64_t /*row*/) { return true; }
SIMT_DEVICE bool IsUsed(const ReceivedRows& list, int64_t row) { return list.IsUsed(row); }

template <typename T>
struct SummedRows {
  RowsOf<const T> y;
  RowsOf<T> out;
  int32_t cols;
  bool aligned;
};

template <typename T, typename List>
SIMT_KERNEL(kMaxRowThreads, 4)
SumRowsKernel(SummedRows<T> rows, List list) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int64_t row = blockIdx.x;
  const int at = ColumnGroup();
  if (at >= rows.cols || !IsUsed(list, row)) return;
  float sums[kGroup] = {};
  const int32_t size = list.Size(row);
  for (int32_t i = 0; i < size; ++i) {
    const int32_t from = list.Row(row, i);
    if (from < 0) continue;
    const float weight = list.Weight(row, i);
    float values[kGroup];
    LoadColumns(values, rows.y[from], at, rows.cols, rows.aligned);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sums[j] += weight * values[j];
  }
  StoreColumns(rows.out[row], at, rows.cols, rows.aligned, sums);
}

template <typename T, typename List>
cudaError_t LaunchAs(const LaunchShape& shape, const ConstRows& y, const Rows& out, int32_t cols,
                     const List& list) {
  const SummedRows<T> rows{
      .y = As<const T>(y), .out = As<T>(out), .cols = cols, .aligned = Aligned(y) && Aligned(out)};
  return SIMT_LAUNCH(shape, (SumRowsKernel<T, List>), rows, list);
}

template <typename List>
cudaError_t Launch(const LaunchShape& shape, const ConstRows& y, const Rows& out, int32_t cols,
                   const List& list) {
  return y.element == Element::kF32 ? LaunchAs<float>(shape, y, out, cols, list)
                                    : LaunchAs<Bf16>(shape, y, out, cols, list);
}

}  // namespace

cudaError_t LaunchMoeFinalize(cudaStream_t stream, const MoeFinalizeLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  const WeightedPlaces list{.positions = launch.positions,
                            .positions_stride = launch.positions_stride,
                            .weights = launch.weights,
                            .weights_stride = launch.weights_stride,
                            .top_k = launch.top_k};
  return Launch(RowShape(stream, launch.rows, launch.cols), launch.y, launch.out, launch.cols,
                list);
}

cudaError_t LaunchAddRanks(cudaStream_t stream, const AddRanksLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  const RankRows list{.token_rows = launch.token_rows, .rows_per_token = launch.rows_per_token};
  return Launch(RowShape(stream, launch.rows, launch.cols), launch.chunks, launch.out, launch.cols,
                list);
}

cudaError_t LaunchSumResults(cudaStream_t stream, const SumResultsLaunch& launch) {
  const ReceivedRows list{.shape = launch.shape,
                          .headers = launch.headers,
                          .recv_counts = launch.recv_counts,
                          .sorted_rows = launch.sorted_rows};
  const int64_t rows = int64_t{launch.shape.ranks} * launch.shape.capacity;
  return Launch(RowShape(stream, rows, launch.cols), launch.y, launch.chunks, launch.cols, list);
}

}  // namespace tessera::cuda
