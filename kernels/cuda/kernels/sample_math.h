// What the sampler computes in double: the same operations in the same order wherever it is
// compiled, so that a GPU and the emulator give the same bits. The CPU's sampler takes log from its
// C library: scores may differ from it in the last bit, which decides only between two tokens whose
// scores agree in 50 bits.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_MATH_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_MATH_H_

#include "kernels/core/philox.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

inline constexpr double kLn2High = 0.693147180369123816490;
inline constexpr double kLn2Low = 1.90821492927058770002e-10;
inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kInfinity = __builtin_huge_valf();

// Integers in the order of the floats they stand for; -0 counts as +0.
SIMT_DEVICE uint32_t OrderedKey(float value) {
  const uint32_t bits = simt::BitsOf(value + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
SIMT_DEVICE uint64_t OrderedKey(double value) {
  const uint64_t bits = simt::BitsOf(value + 0.0);
  return (bits >> 63) != 0 ? ~bits : bits | uint64_t{1} << 63;
}
SIMT_DEVICE float FromOrderedKey(uint32_t key) {
  return simt::FloatBits((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}

SIMT_DEVICE bool IsNan(float value) { return (simt::BitsOf(value) & 0x7fffffffU) > 0x7f800000U; }

// e^x for x <= 0, as in kernels/sampling/isa/loops.cc: 2^n * e^r with n = round(x / ln 2) and the
// Taylor series of e^r, |r| <= ln 2 / 2.
SIMT_DEVICE double PortableExp(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  constexpr double kSmallest = -700.0;
  if (!(x > kSmallest)) return 0.0;
  const double rounded = simt::Fma(x, 1.4426950408889634, kRound);
  const double n = rounded - kRound;
  const double r = simt::Fma(n, -kLn2Low, simt::Fma(n, -kLn2High, x));
  double series = 1.0 / 39916800;
  series = simt::Fma(series, r, 1.0 / 3628800);
  series = simt::Fma(series, r, 1.0 / 362880);
  series = simt::Fma(series, r, 1.0 / 40320);
  series = simt::Fma(series, r, 1.0 / 5040);
  series = simt::Fma(series, r, 1.0 / 720);
  series = simt::Fma(series, r, 1.0 / 120);
  series = simt::Fma(series, r, 1.0 / 24);
  series = simt::Fma(series, r, 1.0 / 6);
  series = simt::Fma(series, r, 0.5);
  series = simt::Fma(series, r, 1.0);
  series = simt::Fma(series, r, 1.0);
  const uint64_t exponent = simt::BitsOf(rounded) - simt::BitsOf(kRound);
  return series * simt::DoubleBits((exponent + 1023) << 52);
}

// The natural logarithm of a positive normal number: x = 2^k * m with m within sqrt(2) of 1, and
// log m = 2 artanh(s) with s = (m - 1) / (m + 1), |s| <= 0.172.
SIMT_DEVICE double PortableLog(double x) {
  constexpr double kSqrt2 = 1.4142135623730951;
  const uint64_t bits = simt::BitsOf(x);
  int k = static_cast<int>(bits >> 52) - 1023;
  double m = simt::DoubleBits((bits & 0xfffffffffffffU) | uint64_t{1023} << 52);
  if (m > kSqrt2) {
    m *= 0.5;
    ++k;
  }
  const double f = m - 1.0;
  const double s = f / (2.0 + f);
  const double z = s * s;
  double series = 2.0 / 21;
  series = simt::Fma(series, z, 2.0 / 19);
  series = simt::Fma(series, z, 2.0 / 17);
  series = simt::Fma(series, z, 2.0 / 15);
  series = simt::Fma(series, z, 2.0 / 13);
  series = simt::Fma(series, z, 2.0 / 11);
  series = simt::Fma(series, z, 2.0 / 9);
  series = simt::Fma(series, z, 2.0 / 7);
  series = simt::Fma(series, z, 2.0 / 5);
  series = simt::Fma(series, z, 2.0 / 3);
  const double rest = s * (f - series * z);  // log m = f - rest
  const double exponent = k;
  return simt::Fma(exponent, kLn2High, f - simt::Fma(-exponent, kLn2Low, rest));
}

// logit + g of the contract (SampleArgs in kernels/ops.h).
SIMT_DEVICE double GumbelScore(float logit, uint32_t bits) {
  return logit - PortableLog(-PortableLog(UniformFromBits(bits)));
}

// Whether logit + g can reach `best`: -log(u) > 1 - u, so it needs 1 - u <= exp(logit - best). The
// slack is more than all rounding of this; what passes is then looked at in double.
SIMT_DEVICE bool MayReach(float logit, uint32_t bits, float best) {
  const float slack = 0.01F + 1e-6F * (simt::Abs(logit) + simt::Abs(best));
  const float reach = simt::ptx::Exp2((logit - best + slack) * kLog2E);
  return (static_cast<float>(~bits) + 0.5F) * 0x1p-32F <= reach;
}

// Probability mass relative to the largest logit, in units of 2^-43: integers add up to the same
// sum in any order, and 2^20 of them fit into 64 bits.
inline constexpr double kMassUnits = 0x1p43;
SIMT_DEVICE uint64_t MassOf(float logit, float largest) {
  constexpr float kWeightless = 31.0F;  // exp(-31) is less than half a unit
  if (!(largest - logit < kWeightless)) return 0;
  const double weight = PortableExp(static_cast<double>(logit) - static_cast<double>(largest));
  const double units = weight * kMassUnits + 0.5;
  return static_cast<uint64_t>(units);
}

// The same, good to about 2^-20 of itself: enough for a sum that is reported as a float.
SIMT_DEVICE uint64_t RoughMassOf(float logit, float largest) {
  return static_cast<uint64_t>(simt::ptx::Exp2((logit - largest) * kLog2E) * 0x1p43F);
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_MATH_H_
