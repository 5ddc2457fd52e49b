#include "kernels/ref/weight.h"

#include <algorithm>
#include <cstring>

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

std::vector<float> RefWeight::Row(int64_t row) const {
  std::vector<float> values(cols());
  const int64_t begin = row * matrix_.stride0();
  for (int64_t col = 0; col < cols(); ++col) {
    values[col] = matrix_.dtype() == DType::kF32 ? matrix_.as<float>()[begin + col]
                                                 : BF16ToFloat(matrix_.as<uint16_t>()[begin + col]);
  }
  return values;
}

}  // namespace tessera::ref
