// Rows of the embedding table: one row read and written per token.
#include "kernels/cuda/kernels/row_access.h"
#include "kernels/cuda/kernels/rows.h"

namespace tessera::cuda {
namespace {

template <typename From, typename To>
struct EmbedRows {
  const int32_t* ids;
  const int32_t* source;
  const int32_t* drawn;
  RowsOf<const From> table;
  int32_t vocab;
  int32_t vocab_begin;
  RowsOf<To> out;
  int32_t cols;
  bool aligned;
};

template <typename From, typename To>
SIMT_KERNEL(kMaxRowThreads, 4)
EmbedKernel(EmbedRows<From, To> rows) {
  simt::ptx::GridDependencyWait();
  simt::ptx::GridDependencyLaunch();
  const int64_t row = blockIdx.x;
  const int at = ColumnGroup();
  if (at >= rows.cols) return;
  const int32_t source = rows.source != nullptr ? rows.source[row] : -1;
  const int32_t id = source < 0 ? rows.ids[row] : rows.drawn[source];
  const int64_t entry = int64_t{id} - rows.vocab_begin;
  float values[kGroup] = {};
  if (entry >= 0 && entry < rows.vocab) {
    LoadColumns(values, rows.table[entry], at, rows.cols, rows.aligned);
  }
  StoreColumns(rows.out[row], at, rows.cols, rows.aligned, values);
}

template <typename From, typename To>
cudaError_t Launch(cudaStream_t stream, const EmbedLaunch& launch) {
  const EmbedRows<From, To> rows{.ids = launch.ids,
                                 .source = launch.source,
                                 .drawn = launch.drawn,
                                 .table = As<const From>(launch.table),
                                 .vocab = launch.vocab,
                                 .vocab_begin = launch.vocab_begin,
                                 .out = As<To>(launch.out),
                                 .cols = launch.cols,
                                 .aligned = Aligned(launch.table) && Aligned(launch.out)};
  return SIMT_LAUNCH(RowShape(stream, launch.rows, launch.cols), (EmbedKernel<From, To>), rows);
}

template <typename From>
cudaError_t Launch(cudaStream_t stream, const EmbedLaunch& launch) {
  return launch.out.element == Element::kF32 ? Launch<From, float>(stream, launch)
                                             : Launch<From, Bf16>(stream, launch);
}

}  // namespace

cudaError_t LaunchEmbed(cudaStream_t stream, const EmbedLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  return launch.table.element == Element::kF32 ? Launch<float>(stream, launch)
                                               : Launch<Bf16>(stream, launch);
}

}  // namespace tessera::cuda
