// One function per operation of the CPU backend; arguments are checked, views are host memory.
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
void MoePermute(const Context& context, const MoePermuteArgs& args);
void MoeFinalize(const Context& context, const MoeFinalizeArgs& args);
void GatherRows(const Context& context, const GatherRowsArgs& args);
void ConcatColumns(const Context& context, const ConcatColumnsArgs& args);
void Sample(const Context& context, const SampleArgs& args);

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_OPERATIONS_H_
