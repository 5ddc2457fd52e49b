// Kernels over single rows: norms, rotary embedding, activation, exponentials.
#include "kernels/cpu/isa/f32x16.h"
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu::TESSERA_CPU_ISA {
namespace {

float InverseRms(F32x16 squares, int64_t size, float eps) {
  return 1.0F / __builtin_sqrtf(ReduceAdd(squares) / static_cast<float>(size) + eps);
}

}  // namespace

void RmsNorm(float* x, const float* add, const float* weight, float eps, int64_t size, float* out) {
  F32x16 squares = Set1(0.0F);
  for (int64_t i = 0; i < size; i += kPanel) {
    F32x16 value = LoadSome(x + i, size - i);
    if (add != nullptr) {
      value = Add(value, LoadSome(add + i, size - i));
      StoreSome(x + i, value, size - i);
    }
    squares = Fma(value, value, squares);
  }
  const F32x16 scale = Set1(InverseRms(squares, size, eps));
  for (int64_t i = 0; i < size; i += kPanel) {
    const F32x16 value = Mul(LoadSome(x + i, size - i), scale);
    StoreSome(out + i, Mul(value, LoadSome(weight + i, size - i)), size - i);
  }
}

void NormRope(const float* x, const float* weight, const float* cos_sin, float eps, int64_t size,
              float* scratch, float* out) {
  F32x16 squares = Set1(0.0F);
  for (int64_t i = 0; i < size; i += kPanel) {
    const F32x16 value = LoadSome(x + i, size - i);
    squares = Fma(value, value, squares);
  }
  const F32x16 scale = Set1(InverseRms(squares, size, eps));
  for (int64_t i = 0; i < size; i += kPanel) {
    const F32x16 value = Mul(LoadSome(x + i, size - i), scale);
    StoreSome(scratch + i, Mul(value, LoadSome(weight + i, size - i)), size - i);
  }
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; i += kPanel) {
    const int64_t count = half - i;
    const F32x16 low = LoadSome(scratch + i, count);
    const F32x16 high = LoadSome(scratch + half + i, count);
    const F32x16 cosine = LoadSome(cos_sin + i, count);
    const F32x16 sine = LoadSome(cos_sin + half + i, count);
    StoreSome(out + i, Sub(Mul(low, cosine), Mul(high, sine)), count);
    StoreSome(out + half + i, Add(Mul(high, cosine), Mul(low, sine)), count);
  }
}

void SiluAndMul(const float* gate, const float* up, int64_t size, float* out) {
  const F32x16 one = Set1(1.0F);
  for (int64_t i = 0; i < size; i += kPanel) {
    const F32x16 g = LoadSome(gate + i, size - i);
    const F32x16 silu = Div(g, Add(one, Exp(Sub(Set1(0.0F), g))));
    StoreSome(out + i, Mul(silu, LoadSome(up + i, size - i)), size - i);
  }
}

void ToBf16(const float* x, int64_t size, uint16_t* out) {
  int64_t i = 0;
  for (; i + kPanel <= size; i += kPanel) StoreBf16(out + i, Load(x + i));
  if (i < size) {
    uint16_t rest[kPanel];
    StoreBf16(rest, LoadSome(x + i, size - i));
    __builtin_memcpy(out + i, rest, (size - i) * 2);
  }
}

float SumExp(const float* x, float shift, int64_t size) {
  F32x16 total = Set1(0.0F);
  for (int64_t i = 0; i < size; i += kPanel) {
    float terms[kPanel] = {};
    StoreSome(terms, Exp(Sub(LoadSome(x + i, size - i), Set1(shift))), size - i);
    total = Add(total, Load(terms));
  }
  return ReduceAdd(total);
}

void ExpAll(const float* x, float shift, int64_t size, float* out) {
  for (int64_t i = 0; i < size; i += kPanel) {
    StoreSome(out + i, Exp(Sub(LoadSome(x + i, size - i), Set1(shift))), size - i);
  }
}

void WeightedSum(const float* const* rows, const float* weights, int64_t count, int64_t size,
                 float* out) {
  for (int64_t i = 0; i < size; i += kPanel) {
    F32x16 sum = Set1(0.0F);
    for (int64_t j = 0; j < count; ++j) {
      sum = Fma(Set1(weights[j]), LoadSome(rows[j] + i, size - i), sum);
    }
    StoreSome(out + i, sum, size - i);
  }
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA
