// Sixteen floats: one AVX-512 register, two AVX2 registers, or whatever the compiler makes of a
// vector type. Included only by the kernels, which are compiled once per instruction set; all names
// live in a namespace per set, so that no function compiled for a newer machine replaces its
// namesake at link time. For the same reason kernels use no templates of the standard library.
#ifndef TESSERA_KERNELS_CPU_ISA_F32X16_H_
#define TESSERA_KERNELS_CPU_ISA_F32X16_H_

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef TESSERA_CPU_ISA
#error "kernels are compiled with TESSERA_CPU_ISA naming the instruction set"
#endif

namespace tessera::cpu::TESSERA_CPU_ISA {

#if defined(__AVX512F__)
#include "kernels/cpu/isa/f32x16_avx512.inc"
#elif defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/isa/f32x16_avx2.inc"
#else
#include "kernels/cpu/isa/f32x16_portable.inc"
#endif

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

// The first min(n, 16) lanes; the others are zero, respectively not written.
inline F32x16 LoadSome(const float* p, int64_t n) {
  return n >= 16 ? Load(p) : LoadFirst(p, static_cast<int>(n));
}
inline void StoreSome(float* p, F32x16 x, int64_t n) {
  if (n >= 16) {
    Store(p, x);
  } else {
    StoreFirst(p, x, static_cast<int>(n));
  }
}

// e^x within 2 units in the last place; 0 below -87.3, e^88.7 above 88.7; NaN stays NaN.
inline F32x16 Exp(F32x16 x) {
  const F32x16 clamped = Max(Set1(-87.3F), Min(Set1(88.7F), x));
  // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
  const F32x16 shifted = Fma(clamped, Set1(1.44269504F), Set1(12582912.0F));
  const F32x16 n = Sub(shifted, Set1(12582912.0F));
  F32x16 r = Fma(n, Set1(-0.693359375F), clamped);
  r = Fma(n, Set1(2.12194440e-4F), r);
  // 1 + r + r^2 q(r), q interpolated at the Chebyshev nodes of |r| <= ln(2) / 2: error 3e-9.
  F32x16 q = Set1(1.392621347e-3F);
  q = Fma(q, r, Set1(8.363202972e-3F));
  q = Fma(q, r, Set1(4.166655444e-2F));
  q = Fma(q, r, Set1(0.1666657685F));
  q = Fma(q, r, Set1(0.5F));
  const F32x16 fraction = Add(Fma(Mul(r, r), q, r), Set1(1.0F));
  return ZeroWhereLess(x, -87.3F, ScaleByLowBits(fraction, shifted));
}

}  // namespace tessera::cpu::TESSERA_CPU_ISA

#endif  // TESSERA_KERNELS_CPU_ISA_F32X16_H_
