// Floating point in eight bits: 1-4-3, bias 7, no infinity; all bits of the magnitude set is NaN.
#ifndef TESSERA_KERNELS_CORE_E4M3_H_
#define TESSERA_KERNELS_CORE_E4M3_H_

#include <bit>
#include <cstdint>

namespace tessera {

// Exact: seven bits of exponent and mantissa stand where float has its own, whose bias is larger by
// 120.
constexpr float E4M3ToFloat(uint8_t code) {
  if ((code & 0x7FU) == 0x7FU) return std::bit_cast<float>(0x7FC00000U);
  const uint32_t bits = ((code & 0x7FU) << 20) | ((code & 0x80U) << 24);
  return std::bit_cast<float>(bits) * 0x1p120F;
}

// To nearest, ties to even, magnitudes above 448 to 448; NaN stays NaN.
constexpr uint8_t FloatToE4M3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80U);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return sign | 0x7FU;
  constexpr uint32_t kLargest = std::bit_cast<uint32_t>(448.0F);
  if (magnitude >= kLargest) return sign | 0x7EU;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6F)) {
    // Adding 2^14 leaves multiples of 2^-9 in the last bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14F;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) & 0xFU);
  }
  const uint32_t rounded = magnitude + 0x7FFFFU + ((magnitude >> 20) & 1U);
  return sign | static_cast<uint8_t>((rounded >> 20) - (120U << 3));
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_E4M3_H_
