#include "engine/quantization/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "engine/files/message.h"
#include "kernels/core/dtype.h"
#include "kernels/core/e4m3.h"

namespace tessera {
namespace {

constexpr float kScaleOfZeros = 1e-8F;

float LargestMagnitude(std::span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// To nearest, ties to even, for magnitudes below 2^22.
float Round(float value) {
  constexpr float kMagic = 12582912.0F;  // 1.5 x 2^23: its last bit is worth one
  return (value + kMagic) - kMagic;
}

// x^0.2 for x >= 0 within 2e-5: a guess from the exponent, then Newton's steps.
float FifthRoot(float x) {
  constexpr uint32_t kFourFifthsOfOne = 0x32CCCCCDU;  // four fifths of the bits of 1.0
  float root = std::bit_cast<float>(std::bit_cast<uint32_t>(x) / 5 + kFourFifthsOfOne);
  for (int step = 0; step < 2; ++step) {
    const float square = root * root;
    root = 0.8F * root + 0.2F * x / (square * square);
  }
  return root;
}

using Group = std::array<float, kInt4Group>;  // zeros behind a short one, which cost nothing

// Sum of |value - scale * code|^2.4. In two loops: compilers make vectors of the first.
float ErrorOf(const Group& group, float scale) {
  const float inverse = 1 / scale;
  Group errors;
  for (size_t i = 0; i < group.size(); ++i) {
    const float code = std::min(7.0F, std::max(-8.0F, Round(group[i] * inverse)));
    const float error = group[i] - scale * code;
    const float square = error * error;
    errors[i] = square * FifthRoot(square);
  }
  float sum = 0;
  for (const float error : errors) sum += error;
  return sum;
}

}  // namespace

absl::StatusOr<CodeFormat> ParseCodeFormat(std::string_view name) {
  if (name == "int8") return CodeFormat::kInt8;
  if (name == "int4") return CodeFormat::kInt4;
  if (name == "fp8") return CodeFormat::kFp8;
  return absl::InvalidArgumentError(
      Message("\"", name.substr(0, 60), "\" is no format; use int8, int4 or fp8"));
}

float QuantizeInt8(std::span<const float> row, std::span<int8_t> codes) {
  const float largest = LargestMagnitude(row);
  const float scale = largest == 0 ? kScaleOfZeros : largest / 127;
  for (size_t i = 0; i < row.size(); ++i) {
    codes[i] = static_cast<int8_t>(std::clamp(Round(row[i] / scale), -127.0F, 127.0F));
  }
  return scale;
}

float QuantizeFp8(std::span<const float> row, std::span<uint8_t> codes) {
  const float largest = LargestMagnitude(row);
  const float scale = largest == 0 ? kScaleOfZeros : largest / 448;
  for (size_t i = 0; i < row.size(); ++i) codes[i] = FloatToE4M3(row[i] / scale);
  return scale;
}

uint16_t QuantizeInt4(std::span<const float> group, std::span<int8_t> codes) {
  float largest = 0;
  for (const float value : group) {
    if (std::abs(value) > std::abs(largest)) largest = value;
  }
  if (largest == 0) {
    std::fill(codes.begin(), codes.end(), int8_t{0});
    return FloatToBF16(kScaleOfZeros);
  }
  Group values{};
  std::copy(group.begin(), group.end(), values.begin());
  constexpr int kFirst = 50;  // r, in fiftieths
  constexpr int kLast = 25;
  float least = std::numeric_limits<float>::infinity();
  float scale = 0;
  for (int fiftieths = kFirst; fiftieths >= kLast; --fiftieths) {
    const float r = static_cast<float>(fiftieths) / 50;
    const float candidate = BF16ToFloat(FloatToBF16(r * largest / -8));
    const float error = ErrorOf(values, candidate);
    if (fiftieths != kFirst && !(error < least)) continue;
    least = error;
    scale = candidate;
  }
  // Too small for bfloat16's scales.
  if (scale == 0) scale = largest < 0 ? kScaleOfZeros : -kScaleOfZeros;
  for (size_t i = 0; i < group.size(); ++i) {
    codes[i] = static_cast<int8_t>(std::clamp(Round(group[i] / scale), -8.0F, 7.0F));
  }
  return FloatToBF16(scale);
}

}  // namespace tessera
