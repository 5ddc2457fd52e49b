// Element types and the exact conversions between them.
#ifndef TESSERA_KERNELS_CORE_DTYPE_H_
#define TESSERA_KERNELS_CORE_DTYPE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tessera {

enum class DType : uint8_t { kF32, kBF16, kF16, kF8E4M3, kI64, kI32, kI8, kU8 };

// Bytes of one element.
constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kF8E4M3:
    case DType::kI8:
    case DType::kU8:
      return 1;
  }
  return 0;
}

// "float32", "bfloat16", "float16", "float8_e4m3", "int64", "int32", "int8", "uint8".
std::string_view DTypeName(DType dtype);
// Inverse of DTypeName; also takes "bf16", "fp16", "f16", "fp32", "f32".
std::optional<DType> ParseDType(std::string_view name);

constexpr float BF16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest, ties to even; NaN stays NaN (quiet).
constexpr uint16_t FloatToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>((bits >> 16) | 0x0040U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// Exact, subnormals included.
float F16ToFloat(uint16_t bits);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_DTYPE_H_
