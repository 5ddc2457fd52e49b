// The shape contracts of ops.h as code. Every backend calls Check first, so that a wrong shape is
// found at the call that made it. Only views are looked at, never the memory behind them.
#ifndef TESSERA_KERNELS_OP_CHECKS_H_
#define TESSERA_KERNELS_OP_CHECKS_H_

#include "kernels/ops.h"

namespace tessera {

// A violation is a CHECK failure.
void Check(const EmbedArgs& args);
void Check(const RmsNormArgs& args);
void Check(const GemmArgs& args);
void Check(const GroupedGemmArgs& args);
void Check(const QkNormRopeStoreKvArgs& args);
void Check(const PagedAttentionArgs& args);
void Check(const SiluAndMulArgs& args);
void Check(const RouteTopKArgs& args);
void Check(const MoePermuteArgs& args);
void Check(const MoeFinalizeArgs& args);
void Check(const CountChoicesArgs& args);
void Check(const CountRowsArgs& args);
void Check(const SumCountsArgs& args);
void Check(const LocalSlotsArgs& args);
void Check(const PlanDispatchArgs& args);
void Check(const PackRowsArgs& args);
void Check(const SortRowsArgs& args);
void Check(const SumResultsArgs& args);
void Check(const PackResultsArgs& args);
void Check(const CheckReturnArgs& args);
void Check(const AddRanksArgs& args);
void Check(const GatherRowsArgs& args);
void Check(const CopyBlocksArgs& args);
void Check(const ConcatColumnsArgs& args);
void Check(const SampleArgs& args);
// INVALID_ARGUMENT for a weight source no backend can hold.
absl::Status Check(const WeightSource& source);

}  // namespace tessera

#endif  // TESSERA_KERNELS_OP_CHECKS_H_
