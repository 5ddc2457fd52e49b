// Codes for matrices that are not quantised, without looking at data.
#ifndef TESSERA_ENGINE_QUANTIZATION_QUANTIZE_H_
#define TESSERA_ENGINE_QUANTIZATION_QUANTIZE_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

// kInt8 and kFp8 with a scale per row, kInt4 with a signed one per group of kInt4Group inputs.
enum class CodeFormat : uint8_t { kInt8, kInt4, kFp8 };

// "int8", "int4", "fp8"; INVALID_ARGUMENT names them.
absl::StatusOr<CodeFormat> ParseCodeFormat(std::string_view name);

inline constexpr int64_t kInt4Group = 32;

// scale = absmax / 127, codes -127 to 127 by rounding to nearest even. A row of zeros has a scale
// of 1e-8, here and below. `codes` has as many places as `row`; values are finite.
float QuantizeInt8(std::span<const float> row, std::span<int8_t> codes);

// scale = absmax / 448, codes E4M3.
float QuantizeFp8(std::span<const float> row, std::span<uint8_t> codes);

// One group of at most kInt4Group values: codes -8 to 7 and the bfloat16 bits of the scale. The
// value m of largest magnitude (the first such) gets the code -8 by the scale r * m / -8, which is
// negative where m is positive. Of r = 1, 0.98 ... 0.5 that one counts whose errors, to the power
// of 2.4, have the least sum (the first such): clipping the largest values costs less than coarse
// steps for all.
uint16_t QuantizeInt4(std::span<const float> group, std::span<int8_t> codes);

}  // namespace tessera

#endif  // TESSERA_ENGINE_QUANTIZATION_QUANTIZE_H_
