// The kernels of this instruction set, one declaration per field of Kernels.
#ifndef TESSERA_KERNELS_CPU_ISA_TABLE_H_
#define TESSERA_KERNELS_CPU_ISA_TABLE_H_

#include "kernels/cpu/isa/kernels.h"

namespace tessera::cpu::TESSERA_CPU_ISA {

void MultiplyMatrix(const MatMul& job);
// mat_mul without conversion of panels: they are read once per register tile of rows. Takes only
// the first `depth` of job.k; adds to out when `accumulate`.
void MultiplyDirect(const MatMul& job, int64_t depth, bool accumulate);
#if defined(__AVX512BF16__)
void MultiplyRounded(const RoundedMatMul& job);
void RoundRow(const float* x, int64_t k, uint16_t* out);
#endif
void UnpackPanel(const PanelCodes& panel, bool bf16, void* out);
void Transpose(const void* const* rows, void* destination);

void Attend(const AttentionSpan& span);
void Merge(const AttentionState& into, const AttentionState& from, int64_t rows, int64_t width);
void Finish(const float* sums, float total, int64_t size, float* out);

void RmsNorm(float* x, const float* add, const float* weight, float eps, int64_t size, float* out);
void NormRope(const float* x, const float* weight, const float* cos_sin, float eps, int64_t size,
              float* scratch, float* out);
void SiluAndMul(const float* gate, const float* up, int64_t size, float* out);
void ToBf16(const float* x, int64_t size, uint16_t* out);
float SumExp(const float* x, float shift, int64_t size);
void ExpAll(const float* x, float shift, int64_t size, float* out);
void WeightedSum(const float* const* rows, const float* weights, int64_t count, int64_t size,
                 float* out);

constexpr Kernels kTable {
  .mat_mul = MultiplyMatrix, .unpack = UnpackPanel,
#if defined(__AVX512BF16__)
  .mat_mul_rounded = MultiplyRounded, .round_row = RoundRow,
#else
  .mat_mul_rounded = nullptr, .round_row = nullptr,
#endif
  .transpose = Transpose, .attend = Attend, .merge = Merge, .finish = Finish, .rms_norm = RmsNorm,
  .norm_rope = NormRope, .silu_and_mul = SiluAndMul, .to_bf16 = ToBf16, .sum_exp = SumExp,
  .exp = ExpAll, .weighted_sum = WeightedSum,
};

}  // namespace tessera::cpu::TESSERA_CPU_ISA

#endif  // TESSERA_KERNELS_CPU_ISA_TABLE_H_
