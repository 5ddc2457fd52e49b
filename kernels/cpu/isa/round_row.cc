// Rounding activations to bfloat16. Only in tables that multiply bfloat16.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {

void RoundRow(const float* x, int64_t k, uint16_t* out) {
  for (int64_t i = 0; i < k; i += kTileDepth, out += kTileElements) {
    const int64_t left = k - i;
    const F32x16 low = LoadSome(x + i, left);
    const F32x16 high = left > kPanel ? LoadSome(x + i + kPanel, left - kPanel) : Set1(0.0F);
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high.v, low.v);
    __builtin_memcpy(out, &rounded, sizeof(rounded));
  }
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
