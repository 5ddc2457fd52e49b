#include "kernels/ref/weight.h"

#include <algorithm>
#include <cstring>

#include "kernels/core/e4m3.h"
#include "kernels/core/status_macros.h"

namespace tessera::ref {
namespace {

template <typename T>
T LoadUnaligned(const void* base, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(base) + index * sizeof(T), sizeof(T));
  return value;
}

float Element(const HostMatrix& matrix, int64_t row, int64_t col) {
  const int64_t index = row * matrix.row_stride + col;
  if (matrix.dtype == DType::kF32) return LoadUnaligned<float>(matrix.data, index);
  const auto bits = LoadUnaligned<uint16_t>(matrix.data, index);
  return matrix.dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
}

bool KeepsEveryBitInBF16(const WeightSource& source) {
  return std::all_of(source.parts.begin(), source.parts.end(),
                     [](const HostMatrix& part) { return part.dtype == DType::kBF16; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Weight>> RefWeight::Create(Device& device,
                                                          const WeightSource& source) {
  if (source.parts[0].quantized()) return CreateOfCodes(device, source);
  const DType dtype =
      source.dtype == DType::kBF16 || KeepsEveryBitInBF16(source) ? DType::kBF16 : DType::kF32;
  const int64_t cols = source.parts[0].cols;
  int64_t rows = source.pad_rows;
  for (const HostMatrix& part : source.parts) rows += part.rows;
  DeviceBuffer storage;
  ASSIGN_OR_RETURN(storage, device.Allocate(rows * cols * SizeOf(dtype), "a weight"));
  const TensorView matrix = storage.View(dtype, {rows, cols});
  int64_t index = 0;
  for (const HostMatrix& part : source.parts) {
    for (int64_t row = 0; row < part.rows; ++row) {
      for (int64_t col = 0; col < cols; ++col, ++index) {
        const float value = Element(part, row, col);
        if (dtype == DType::kF32) {
          matrix.as<float>()[index] = value;
        } else {
          matrix.as<uint16_t>()[index] = FloatToBF16(value);
        }
      }
    }
  }
  return std::make_unique<RefWeight>(std::move(storage), matrix);
}

absl::StatusOr<std::unique_ptr<Weight>> RefWeight::CreateOfCodes(Device& device,
                                                                 const WeightSource& source) {
  const HostMatrix& first = source.parts[0];
  const int64_t cols = first.cols;
  const int64_t groups = first.codes.groups;
  int64_t rows = source.pad_rows;
  for (const HostMatrix& part : source.parts) rows += part.rows;
  DeviceBuffer storage;
  ASSIGN_OR_RETURN(storage, device.Allocate(rows * cols, "a weight's codes"));
  const TensorView matrix = storage.View(first.dtype, {rows, cols});
  auto weight = std::make_unique<RefWeight>(std::move(storage), matrix);
  ASSIGN_OR_RETURN(weight->scales_,
                   device.Allocate(rows * groups * (sizeof(float) + 1), "a weight's scales"));
  weight->rounds_ = source.dtype == DType::kBF16;
  weight->codes_ = first.codes;
  auto* const scales = static_cast<float*>(weight->scales_.data());
  auto* const zeros = reinterpret_cast<uint8_t*>(scales + rows * groups);
  std::memset(weight->scales_.data(), 0, weight->scales_.bytes());  // rows of padding are zeros
  std::memset(matrix.data(), 0, rows * cols);
  int64_t row = 0;
  for (const HostMatrix& part : source.parts) {
    std::memcpy(scales + row * groups, part.codes.scales, part.rows * groups * sizeof(float));
    if (part.codes.zeros != nullptr) {
      std::memcpy(zeros + row * groups, part.codes.zeros, part.rows * groups);
    }
    for (int64_t i = 0; i < part.rows; ++i, ++row) {
      std::memcpy(matrix.as<char>() + row * cols,
                  static_cast<const char*>(part.data) + i * part.row_stride, cols);
    }
  }
  weight->codes_.scales = scales;
  if (weight->codes_.zeros != nullptr) weight->codes_.zeros = zeros;
  return weight;
}

float RefWeight::OfCode(int64_t row, int64_t col) const {
  const int64_t group = row * codes_.groups + (col + codes_.group_offset) / codes_.group_size;
  const auto byte = matrix_.as<uint8_t>()[row * cols() + col];
  float code = 0;
  switch (matrix_.dtype()) {
    case DType::kI8:
      code = static_cast<int8_t>(byte);
      break;
    case DType::kF8E4M3:
      code = E4M3ToFloat(byte);
      break;
    default:
      code = static_cast<float>(byte - (codes_.zeros == nullptr ? 8 : codes_.zeros[group]));
  }
  const float value = code * codes_.scales[group];
  return rounds_ ? BF16ToFloat(FloatToBF16(value)) : value;
}

std::vector<float> RefWeight::Row(int64_t row) const {
  std::vector<float> values(cols());
  if (codes_.scales != nullptr) {
    for (int64_t col = 0; col < cols(); ++col) values[col] = OfCode(row, col);
    return values;
  }
  const int64_t begin = row * matrix_.stride0();
  for (int64_t col = 0; col < cols(); ++col) {
    values[col] = matrix_.dtype() == DType::kF32 ? matrix_.as<float>()[begin + col]
                                                 : BF16ToFloat(matrix_.as<uint16_t>()[begin + col]);
  }
  return values;
}

}  // namespace tessera::ref
