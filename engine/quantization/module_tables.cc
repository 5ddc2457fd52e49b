#include <cmath>
#include <cstring>
#include <string>

#include "engine/checkpoint/safetensors_header.h"
#include "engine/files/message.h"
#include "engine/quantization/dequantize.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

absl::Status Fault(const StoredTensor& tensor, std::string_view what) {
  return absl::InvalidArgumentError(
      Message(tensor.file->path(), ": tensor ", PrintableName(tensor.entry->name), ": ", what));
}

template <typename T>
T Load(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

int64_t Elements(const StoredTensor& tensor) {
  return tensor.entry->num_bytes / static_cast<int64_t>(SizeOf(*tensor.entry->dtype));
}

absl::StatusOr<std::vector<float>> ReadFloats(const StoredTensor& tensor) {
  ASSIGN_OR_RETURN(const std::byte* const data, tensor.Map());
  std::vector<float> values(static_cast<size_t>(Elements(tensor)));
  for (size_t i = 0; i < values.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    switch (*tensor.entry->dtype) {
      case DType::kBF16:
        values[i] = BF16ToFloat(Load<uint16_t>(data, index));
        break;
      case DType::kF16:
        values[i] = F16ToFloat(Load<uint16_t>(data, index));
        break;
      default:
        values[i] = Load<float>(data, index);
    }
  }
  return values;
}

absl::StatusOr<std::vector<float>> ReadScales(const StoredModule& module) {
  if (module.scales.file == nullptr) return std::vector<float>{1.0F};
  ASSIGN_OR_RETURN(std::vector<float> scales, ReadFloats(module.scales));
  for (const float scale : scales) {
    if (!std::isfinite(scale)) return Fault(module.scales, "a scale is NaN or infinite");
    if (scale < 0 && !module.scheme->negative_scales) {
      return Fault(module.scales, Message("a scale is negative (", scale, ")"));
    }
  }
  return scales;
}

// Zero points [rows, cols] from words [rows, cols / f] (along columns).
struct PackedZeros {
  int64_t rows = 0;
  int64_t cols = 0;
  bool along_rows = false;  // words are [ceil(rows / f), cols]
};

absl::StatusOr<std::vector<int16_t>> UnpackZeros(const StoredModule& module,
                                                 const PackedZeros& packed) {
  // Column of AWQ's nibble i of a word, turned round: nibble of column j.
  constexpr int kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  ASSIGN_OR_RETURN(const std::byte* const data, module.zeros.Map());
  const bool awq = module.scheme->layout == QuantizedLayout::kAwq;
  const int64_t per_word = module.codes_per_word();
  const int32_t bits = module.scheme->bits;
  const uint32_t mask = (1U << bits) - 1;
  const int64_t row_words = packed.along_rows ? packed.cols : packed.cols / per_word;
  std::vector<int16_t> zeros(static_cast<size_t>(packed.rows * packed.cols));
  for (int64_t row = 0; row < packed.rows; ++row) {
    for (int64_t col = 0; col < packed.cols; ++col) {
      const int64_t word =
          packed.along_rows ? row / per_word * row_words + col : row * row_words + col / per_word;
      const int64_t place = (packed.along_rows ? row : col) % per_word;
      const int64_t nibble = awq ? kAwqNibble[place] : place;
      const uint32_t code = (Load<uint32_t>(data, word) >> (bits * nibble)) & mask;
      if (module.scheme->zeros_less_one && code == mask) {
        return Fault(module.zeros,
                     "a zero point is stored with all bits set, which tools read in three ways");
      }
      zeros[static_cast<size_t>(row * packed.cols + col)] =
          static_cast<int16_t>(code + (module.scheme->zeros_less_one ? 1 : 0));
    }
  }
  return zeros;
}

// A symmetric scheme's zero points, where they are stored: as they are, or in words with the code
// of zero in every place.
absl::Status CheckZerosAreZero(const StoredModule& module) {
  ASSIGN_OR_RETURN(const std::byte* const data, module.zeros.Map());
  const bool words = module.zeros.entry->dtype == DType::kI32;
  const uint32_t zero_word = module.scheme->bits == 4 ? 0x88888888U : 0x80808080U;
  for (int64_t i = 0; i < Elements(module.zeros); ++i) {
    const uint32_t value = words ? Load<uint32_t>(data, i) : Load<uint8_t>(data, i);
    if (value == 0 || (words && value == zero_word)) continue;
    return Fault(module.zeros, "is not zero, but config.json says that the codes are symmetric");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int16_t>> ReadZeros(const StoredModule& module) {
  const int64_t groups = module.num_groups();
  switch (module.scheme->layout) {
    case QuantizedLayout::kGptq:
    case QuantizedLayout::kAwq:
      return UnpackZeros(module, {.rows = groups, .cols = module.rows});
    case QuantizedLayout::kPacked:
      if (!module.scheme->symmetric) {
        return UnpackZeros(module, {.rows = module.rows, .cols = groups, .along_rows = true});
      }
      break;
    case QuantizedLayout::kFp8:
    case QuantizedLayout::kInt8:
      break;
  }
  if (module.zeros.file != nullptr) RETURN_IF_ERROR(CheckZerosAreZero(module));
  return std::vector<int16_t>();
}

absl::StatusOr<std::vector<int32_t>> ReadGroups(const StoredModule& module) {
  if (module.scheme->scales != ScaleUnit::kGroup) return std::vector<int32_t>();
  std::vector<int32_t> groups(static_cast<size_t>(module.cols));
  const std::byte* data = nullptr;
  if (module.groups.file != nullptr) {
    ASSIGN_OR_RETURN(data, module.groups.Map());
  }
  for (int64_t k = 0; k < module.cols; ++k) {
    const int32_t group =
        data == nullptr ? static_cast<int32_t>(k / module.group_size()) : Load<int32_t>(data, k);
    if (group < 0 || group >= module.num_groups()) {
      return Fault(module.groups, Message("says that input ", k, " belongs to group ", group,
                                          ", there are ", module.num_groups()));
    }
    groups[static_cast<size_t>(k)] = group;
  }
  return groups;
}

absl::Status CheckShape(const StoredModule& module) {
  if (module.shape.file == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::byte* const data, module.shape.Map());
  const auto rows = Load<int64_t>(data, 0);
  const auto cols = Load<int64_t>(data, 1);
  if (rows == module.rows && cols == module.cols) return absl::OkStatus();
  return Fault(module.shape, Message("says [", rows, ", ", cols, "], config.json asks for ",
                                     ShapeText({module.rows, module.cols})));
}

absl::Status CheckBias(const StoredModule& module) {
  if (module.bias.file == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<float> values, ReadFloats(module.bias));
  for (const float value : values) {
    if (value != 0) {
      return Fault(module.bias, "is not zero, but the model that config.json describes has none");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModuleTables> ReadModuleTables(const StoredModule& module) {
  RETURN_IF_ERROR(CheckShape(module));
  RETURN_IF_ERROR(CheckBias(module));
  ModuleTables tables;
  ASSIGN_OR_RETURN(tables.scales, ReadScales(module));
  ASSIGN_OR_RETURN(tables.zeros, ReadZeros(module));
  ASSIGN_OR_RETURN(tables.groups, ReadGroups(module));
  return tables;
}

}  // namespace tessera
