// One function per operation of the CUDA backend: turns arguments, which are checked, into a launch
// on the context's stream.
#ifndef TESSERA_KERNELS_CUDA_OPERATIONS_H_
#define TESSERA_KERNELS_CUDA_OPERATIONS_H_

#include "kernels/cuda/context.h"
#include "kernels/cuda/kernels/matrix.h"
#include "kernels/ops.h"

namespace tessera::cuda {

// cuda_rows.cc
cudaError_t Embed(const Context& context, const EmbedArgs& args);
cudaError_t RmsNorm(const Context& context, const RmsNormArgs& args);
cudaError_t QkNormRopeStoreKv(const Context& context, const QkNormRopeStoreKvArgs& args);
cudaError_t SiluAndMul(const Context& context, const SiluAndMulArgs& args);
cudaError_t GatherRows(const Context& context, const GatherRowsArgs& args);
cudaError_t CopyBlocks(const Context& context, const CopyBlocksArgs& args);
cudaError_t ConcatColumns(const Context& context, const ConcatColumnsArgs& args);
// cuda_gemm.cc
cudaError_t Gemm(const Context& context, const GemmArgs& args);
cudaError_t GroupedGemm(const Context& context, const GroupedGemmArgs& args);
// cuda_attention.cc
cudaError_t PagedAttention(const Context& context, const PagedAttentionArgs& args);
// cuda_sample.cc
cudaError_t Sample(const Context& context, const SampleArgs& args);
// cuda_experts.cc
cudaError_t RouteTopK(const Context& context, const RouteTopKArgs& args);
cudaError_t MoePermute(const Context& context, const MoePermuteArgs& args);
cudaError_t MoeFinalize(const Context& context, const MoeFinalizeArgs& args);
cudaError_t CountChoices(const Context& context, const CountChoicesArgs& args);
cudaError_t CountRows(const Context& context, const CountRowsArgs& args);
cudaError_t SumCounts(const Context& context, const SumCountsArgs& args);
cudaError_t LocalSlots(const Context& context, const LocalSlotsArgs& args);
// cuda_dispatch.cc
cudaError_t PlanDispatch(const Context& context, const PlanDispatchArgs& args);
cudaError_t PackRows(const Context& context, const PackRowsArgs& args);
cudaError_t SortRows(const Context& context, const SortRowsArgs& args);
cudaError_t SumResults(const Context& context, const SumResultsArgs& args);
cudaError_t PackResults(const Context& context, const PackResultsArgs& args);
cudaError_t CheckReturn(const Context& context, const CheckReturnArgs& args);
cudaError_t AddRanks(const Context& context, const AddRanksArgs& args);

inline Element ElementOf(DType dtype) {
  return dtype == DType::kF32 ? Element::kF32 : Element::kBf16;
}
inline Rows RowsIn(const TensorView& view) {
  return {.data = view.data(), .stride = view.stride0(), .element = ElementOf(view.dtype())};
}
inline ConstRows RowsIn(const ConstTensorView& view) {
  return {.data = view.data(), .stride = view.stride0(), .element = ElementOf(view.dtype())};
}
inline int64_t StrideBytes(const ConstTensorView& view) {
  return view.stride0() * static_cast<int64_t>(SizeOf(view.dtype()));
}
inline int64_t RowBytes(const ConstTensorView& view) {
  return view.row_size() * static_cast<int64_t>(SizeOf(view.dtype()));
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_OPERATIONS_H_
