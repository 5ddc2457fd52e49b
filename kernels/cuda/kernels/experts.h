// Launchers of the operations that keep the books of mixture-of-experts layers. What they compute,
// and the letters: kernels/core/expert_ops.h and kernels/ops.h. Index arrays are contiguous where
// no stride stands beside them; strides count elements. A launch of no rows is nothing.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_EXPERTS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_EXPERTS_H_

#include <cstdint>

#include "kernels/core/row_routing.h"
#include "kernels/cuda/kernels/fault.h"
#include "kernels/cuda/kernels/matrix.h"
#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

struct RouteTopKLaunch {
  const float* logits = nullptr;  // [logits_rows, experts]
  int64_t logits_stride = 0;
  int64_t logits_rows = 0;
  int32_t experts = 0;
  bool normalize = true;
  int32_t first_row = 0;
  const int32_t* num_rows = nullptr;  // or null
  int32_t* ids = nullptr;             // [rows, top_k]
  int64_t ids_stride = 0;
  float* weights = nullptr;  // [rows, top_k]
  int64_t weights_stride = 0;
  int64_t rows = 0;
  int32_t top_k = 0;
};
cudaError_t LaunchRouteTopK(cudaStream_t stream, const RouteTopKLaunch& launch);

struct MoePermuteLaunch {
  const int32_t* ids = nullptr;  // [tokens, top_k]
  int64_t ids_stride = 0;
  int32_t* positions = nullptr;  // [tokens, top_k]
  int64_t positions_stride = 0;
  int32_t* offsets = nullptr;    // [experts + 1]
  int32_t* row_token = nullptr;  // [capacity]
  int32_t capacity = 0;
  int32_t tokens = 0;
  int32_t top_k = 0;
  int32_t expert_begin = 0;
  int32_t experts = 0;
  Fault* fault = nullptr;
};
cudaError_t LaunchMoePermute(cudaStream_t stream, const MoePermuteLaunch& launch);

struct MoeFinalizeLaunch {
  ConstRows y;
  const int32_t* positions = nullptr;  // [rows, top_k]
  int64_t positions_stride = 0;
  const float* weights = nullptr;  // [rows, top_k]
  int64_t weights_stride = 0;
  Rows out;  // [rows, cols]
  int64_t rows = 0;
  int32_t top_k = 0;
  int32_t cols = 0;
};
cudaError_t LaunchMoeFinalize(cudaStream_t stream, const MoeFinalizeLaunch& launch);

struct CountChoicesLaunch {
  const int32_t* ids = nullptr;
  int32_t num_ids = 0;
  int64_t* counts = nullptr;  // [experts]
  int32_t experts = 0;
};
cudaError_t LaunchCountChoices(cudaStream_t stream, const CountChoicesLaunch& launch);
cudaError_t LaunchCountRows(cudaStream_t stream, const int32_t* num_rows, int64_t* total);
cudaError_t LaunchSumCounts(cudaStream_t stream, const int64_t* counts, int64_t size, int64_t* sum);

struct LocalSlotsLaunch {
  PlacementView placement;
  int32_t rank = 0;
  const int32_t* ids = nullptr;  // [num_ids / top_k, top_k]
  int32_t* slots = nullptr;
  int64_t num_ids = 0;
  int32_t top_k = 0;
  Fault* fault = nullptr;
};
cudaError_t LaunchLocalSlots(cudaStream_t stream, const LocalSlotsLaunch& launch);

// DispatchShape with what follows from it.
struct ChunkShape {
  int32_t ranks = 0;
  int32_t slots_per_rank = 0;
  int32_t top_k = 0;
  int32_t capacity = 0;
  int32_t row_slots = 0;
  int32_t rows_per_token = 0;
};

struct PlanDispatchLaunch {
  ChunkShape shape;
  PlacementView placement;
  int32_t rank = 0;
  bool clear_unused = false;
  int32_t tokens = 0;
  const int32_t* ids = nullptr;
  const float* weights = nullptr;
  int32_t* send_counts = nullptr;
  int32_t* pair_counts = nullptr;
  int32_t* send_tokens = nullptr;
  int32_t* headers = nullptr;
  int32_t* token_rows = nullptr;
  int32_t* pair_rows = nullptr;
  Fault* fault = nullptr;
};
cudaError_t LaunchPlanDispatch(cudaStream_t stream, const PlanDispatchLaunch& launch);

struct SortRowsLaunch {
  ChunkShape shape;
  bool padded = false;
  const int32_t* headers = nullptr;
  int32_t* recv_counts = nullptr;
  int32_t* pair_counts = nullptr;
  int32_t* offsets = nullptr;
  int32_t* row_index = nullptr;
  int32_t* sorted_rows = nullptr;
  int32_t* result_rows = nullptr;
  Fault* fault = nullptr;
};
cudaError_t LaunchSortRows(cudaStream_t stream, const SortRowsLaunch& launch);

// Rows as bytes; the strides count bytes.
struct PackRowsLaunch {
  ChunkShape shape;
  const void* x = nullptr;
  int64_t x_stride = 0;
  int64_t row_bytes = 0;
  const int32_t* send_counts = nullptr;
  const int32_t* send_tokens = nullptr;
  void* chunks = nullptr;  // contiguous
};
cudaError_t LaunchPackRows(cudaStream_t stream, const PackRowsLaunch& launch);

struct PackResultsLaunch {
  ChunkShape shape;
  const void* y = nullptr;
  int64_t y_stride = 0;
  int64_t row_bytes = 0;
  const int32_t* headers = nullptr;
  const int32_t* recv_counts = nullptr;
  const int32_t* sorted_rows = nullptr;
  const int32_t* result_rows = nullptr;
  void* chunks = nullptr;  // contiguous
};
cudaError_t LaunchPackResults(cudaStream_t stream, const PackResultsLaunch& launch);

struct SumResultsLaunch {
  ChunkShape shape;
  ConstRows y;
  const int32_t* headers = nullptr;
  const int32_t* recv_counts = nullptr;
  const int32_t* sorted_rows = nullptr;
  Rows chunks;
  int32_t cols = 0;
};
cudaError_t LaunchSumResults(cudaStream_t stream, const SumResultsLaunch& launch);

struct CheckReturnLaunch {
  const int32_t* sent = nullptr;
  const int32_t* returned = nullptr;
  int32_t ranks = 0;
  Fault* fault = nullptr;
};
cudaError_t LaunchCheckReturn(cudaStream_t stream, const CheckReturnLaunch& launch);

struct AddRanksLaunch {
  ConstRows chunks;
  const int32_t* token_rows = nullptr;  // [rows, rows_per_token]
  int32_t rows_per_token = 0;
  Rows out;
  int64_t rows = 0;
  int32_t cols = 0;
};
cudaError_t LaunchAddRanks(cudaStream_t stream, const AddRanksLaunch& launch);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_EXPERTS_H_
