// One function per operation of the CPU backend; arguments are checked, views are host memory. A
// status is that of the device.
#ifndef TESSERA_KERNELS_CPU_OPERATIONS_H_
#define TESSERA_KERNELS_CPU_OPERATIONS_H_

#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace tessera::cpu {

void Embed(const Context& context, const EmbedArgs& args);
void RmsNorm(const Context& context, const RmsNormArgs& args);
void Gemm(const Context& context, const GemmArgs& args);
void GroupedGemm(const Context& context, const GroupedGemmArgs& args);
void QkNormRopeStoreKv(const Context& context, const QkNormRopeStoreKvArgs& args);
void PagedAttention(const Context& context, const PagedAttentionArgs& args);
void SiluAndMul(const Context& context, const SiluAndMulArgs& args);
void RouteTopK(const Context& context, const RouteTopKArgs& args);
absl::Status MoePermute(const Context& context, const MoePermuteArgs& args);
void MoeFinalize(const Context& context, const MoeFinalizeArgs& args);
void CountChoices(const Context& context, const CountChoicesArgs& args);
void CountRows(const Context& context, const CountRowsArgs& args);
void SumCounts(const Context& context, const SumCountsArgs& args);
absl::Status LocalSlots(const Context& context, const LocalSlotsArgs& args);
absl::Status PlanDispatch(const Context& context, const PlanDispatchArgs& args);
void PackRows(const Context& context, const PackRowsArgs& args);
absl::Status SortRows(const Context& context, const SortRowsArgs& args);
void SumResults(const Context& context, const SumResultsArgs& args);
void PackResults(const Context& context, const PackResultsArgs& args);
absl::Status CheckReturn(const Context& context, const CheckReturnArgs& args);
void AddRanks(const Context& context, const AddRanksArgs& args);
void GatherRows(const Context& context, const GatherRowsArgs& args);
void CopyBlocks(const Context& context, const CopyBlocksArgs& args);
void ConcatColumns(const Context& context, const ConcatColumnsArgs& args);
void Sample(const Context& context, const SampleArgs& args);

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_OPERATIONS_H_
