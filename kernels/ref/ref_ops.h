// The reference backend: every operation written as its formula, activations in the model's type,
// reductions in double, on the calling thread. The oracle other backends are compared with.
#ifndef TESSERA_KERNELS_REF_REF_OPS_H_
#define TESSERA_KERNELS_REF_REF_OPS_H_

#include <memory>

#include "kernels/ops.h"

namespace tessera {

std::unique_ptr<Ops> CreateRefOps(const OpsOptions& options);

namespace ref {

// One function per operation; views are ordinary host memory. A status is that of the device.
void Embed(const EmbedArgs& args);
void RmsNorm(const RmsNormArgs& args);
void Gemm(const GemmArgs& args);
void GroupedGemm(const GroupedGemmArgs& args);
void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args);
void PagedAttention(const PagedAttentionArgs& args);
void SiluAndMul(const SiluAndMulArgs& args);
void RouteTopK(const RouteTopKArgs& args);
absl::Status MoePermute(const MoePermuteArgs& args);
void MoeFinalize(const MoeFinalizeArgs& args);
void CountChoices(const CountChoicesArgs& args);
void CountRows(const CountRowsArgs& args);
void SumCounts(const SumCountsArgs& args);
absl::Status LocalSlots(const LocalSlotsArgs& args);
absl::Status PlanDispatch(const PlanDispatchArgs& args);
void PackRows(const PackRowsArgs& args);
absl::Status SortRows(const SortRowsArgs& args);
void SumResults(const SumResultsArgs& args);
void PackResults(const PackResultsArgs& args);
absl::Status CheckReturn(const CheckReturnArgs& args);
void AddRanks(const AddRanksArgs& args);
void GatherRows(const GatherRowsArgs& args);
void CopyBlocks(const CopyBlocksArgs& args);
void ConcatColumns(const ConcatColumnsArgs& args);
void Sample(const SampleArgs& args);

}  // namespace ref
}  // namespace tessera

#endif  // TESSERA_KERNELS_REF_REF_OPS_H_
