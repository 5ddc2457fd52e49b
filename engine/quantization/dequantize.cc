#include "engine/quantization/dequantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "engine/checkpoint/safetensors_header.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Rows that are worked on together: a cache line of words where codes lie column by column.
constexpr int64_t kRows = 16;

// 1-4-3 bits, bias 7, no infinity; all bits of a magnitude set: NaN.
std::array<float, 256> MakeE4m3Values() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> 3) & 15;
    const int mantissa = code & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((code & 0x7F) == 0x7F) value = std::numeric_limits<float>::quiet_NaN();
    values[static_cast<size_t>(code)] = (code & 0x80) != 0 ? -value : value;
  }
  return values;
}

uint32_t LoadWord(const std::byte* data, int64_t index) {
  uint32_t word;
  std::memcpy(&word, data + index * 4, sizeof(word));
  return word;
}

void StoreRow(const float* values, int64_t count, DType dtype, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = FloatToBF16(values[i]);
    std::memcpy(out + i * 2, &bits, sizeof(bits));
  }
}

class Dequantizer {
 public:
  Dequantizer(const StoredModule& module, const MatrixSlice& slice)
      : module_(module), scheme_(*module.scheme), slice_(slice) {}

  absl::Status Run(const DequantizeTarget& target) {
    ASSIGN_OR_RETURN(tables_, ReadModuleTables(module_));
    RETURN_IF_ERROR(MapCodes());
    const int64_t cols = slice_.num_columns;
    values_.resize(static_cast<size_t>(kRows * cols));
    const int64_t row_bytes = cols * static_cast<int64_t>(SizeOf(target.dtype));
    for (int64_t begin = 0; begin < slice_.num_rows; begin += kRows) {
      const int64_t count = std::min(kRows, slice_.num_rows - begin);
      Decode(slice_.row_begin + begin, count);
      for (int64_t i = 0; i < count; ++i) {
        float* const row = values_.data() + i * cols;
        RETURN_IF_ERROR(Scale(slice_.row_begin + begin + i, row));
        if (target.data == nullptr) continue;
        StoreRow(row, cols, target.dtype, target.data + (begin + i) * row_bytes);
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Fault(const StoredTensor& tensor, std::string_view what) const {
    return absl::InvalidArgumentError(
        Message(tensor.file->path(), ": tensor ", PrintableName(tensor.entry->name), ": ", what));
  }

  // Only the words and bytes of the slice.
  absl::Status MapCodes() {
    MatrixSlice stored = slice_;
    const int64_t per_word = module_.codes_per_word();
    const auto shrink = [per_word](int64_t* begin, int64_t* count) {
      const int64_t end = (*begin + *count + per_word - 1) / per_word;
      *begin /= per_word;
      *count = end - *begin;
    };
    switch (scheme_.layout) {
      case QuantizedLayout::kFp8:
      case QuantizedLayout::kInt8:
        break;
      case QuantizedLayout::kPacked:
        shrink(&stored.column_begin, &stored.num_columns);
        break;
      case QuantizedLayout::kGptq:
        stored = {slice_.column_begin, slice_.num_columns, slice_.row_begin, slice_.num_rows};
        shrink(&stored.row_begin, &stored.num_rows);
        break;
      case QuantizedLayout::kAwq:
        stored = {slice_.column_begin, slice_.num_columns, slice_.row_begin, slice_.num_rows};
        shrink(&stored.column_begin, &stored.num_columns);
        break;
    }
    first_row_ = stored.row_begin;
    first_column_ = stored.column_begin;
    ASSIGN_OR_RETURN(codes_, module_.codes.MapSlice(stored));
    return absl::OkStatus();
  }

  // Codes of `count` rows from `row` on as numbers; those of words without their offset.
  void Decode(int64_t row, int64_t count) {
    switch (scheme_.layout) {
      case QuantizedLayout::kFp8:
      case QuantizedLayout::kInt8:
        return DecodeBytes(row, count);
      case QuantizedLayout::kPacked:
        return DecodePacked(row, count);
      case QuantizedLayout::kGptq:
        return DecodeGptq(row, count);
      case QuantizedLayout::kAwq:
        return DecodeAwq(row, count);
    }
  }

  const std::byte* StoredRow(int64_t row) const {
    return codes_.data + (row - first_row_) * codes_.row_stride;
  }

  void DecodeBytes(int64_t row, int64_t count) {
    static const std::array<float, 256> e4m3 = MakeE4m3Values();
    const bool is_float = scheme_.layout == QuantizedLayout::kFp8;
    const int64_t cols = slice_.num_columns;
    for (int64_t i = 0; i < count; ++i) {
      const std::byte* const from = StoredRow(row + i);
      float* const to = values_.data() + i * cols;
      for (int64_t k = 0; k < cols; ++k) {
        const auto code = std::to_integer<uint8_t>(from[k]);
        to[k] = is_float ? e4m3[code] : static_cast<float>(static_cast<int8_t>(code));
      }
    }
  }

  void DecodePacked(int64_t row, int64_t count) {
    const int64_t per_word = module_.codes_per_word();
    const uint32_t mask = (1U << scheme_.bits) - 1;
    const int64_t cols = slice_.num_columns;
    for (int64_t i = 0; i < count; ++i) {
      const std::byte* const from = StoredRow(row + i);
      float* const to = values_.data() + i * cols;
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t column = slice_.column_begin + k;
        const uint32_t word = LoadWord(from, column / per_word - first_column_);
        to[k] = static_cast<float>((word >> (scheme_.bits * (column % per_word))) & mask);
      }
    }
  }

  void DecodeGptq(int64_t row, int64_t count) {
    const int64_t per_word = module_.codes_per_word();
    const uint32_t mask = (1U << scheme_.bits) - 1;
    const int64_t cols = slice_.num_columns;
    for (int64_t k = 0; k < cols; ++k) {
      const int64_t input = slice_.column_begin + k;
      const std::byte* const from = StoredRow(input / per_word);
      const auto shift = static_cast<uint32_t>(scheme_.bits * (input % per_word));
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t word = LoadWord(from, row + i - first_column_);
        values_[static_cast<size_t>(i * cols + k)] = static_cast<float>((word >> shift) & mask);
      }
    }
  }

  void DecodeAwq(int64_t row, int64_t count) {
    // The nibble of a word that holds column j.
    constexpr std::array<uint32_t, 8> kNibble = {0, 4, 1, 5, 2, 6, 3, 7};
    const int64_t cols = slice_.num_columns;
    for (int64_t k = 0; k < cols; ++k) {
      const std::byte* const from = StoredRow(slice_.column_begin + k);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t output = row + i;
        const uint32_t word = LoadWord(from, output / 8 - first_column_);
        values_[static_cast<size_t>(i * cols + k)] =
            static_cast<float>((word >> (4 * kNibble[static_cast<size_t>(output % 8)])) & 15U);
      }
    }
  }

  // The scale and the zero point of inputs that share them.
  struct Factor {
    float scale = 1;
    float zero = 0;
  };
  Factor FactorOf(int64_t row, int64_t input) const {
    size_t index = 0;
    const auto at = [](int64_t a, int64_t stride, int64_t b) {
      return static_cast<size_t>(a * stride + b);
    };
    const bool by_column =
        scheme_.layout == QuantizedLayout::kGptq || scheme_.layout == QuantizedLayout::kAwq;
    switch (scheme_.scales) {
      case ScaleUnit::kTensor:
        break;
      case ScaleUnit::kRow:
        index = static_cast<size_t>(row);
        break;
      case ScaleUnit::kBlock:
        index = at(row / scheme_.block_rows,
                   (module_.cols + scheme_.block_cols - 1) / scheme_.block_cols,
                   input / scheme_.block_cols);
        break;
      case ScaleUnit::kGroup: {
        const int64_t group = tables_.groups[static_cast<size_t>(input)];
        index = by_column ? at(group, module_.rows, row) : at(row, module_.num_groups(), group);
        break;
      }
    }
    Factor factor{.scale = tables_.scales[index], .zero = 0};
    if (!tables_.zeros.empty()) {
      factor.zero = tables_.zeros[index];
    } else if (scheme_.layout == QuantizedLayout::kPacked) {
      factor.zero = static_cast<float>(1 << (scheme_.bits - 1));
    }
    return factor;
  }

  // The first input behind `input` that has another factor, or the slice's end.
  int64_t RunEnd(int64_t input) const {
    const int64_t end = slice_.column_begin + slice_.num_columns;
    if (scheme_.scales == ScaleUnit::kBlock) {
      return std::min(end, (input / scheme_.block_cols + 1) * scheme_.block_cols);
    }
    if (scheme_.scales != ScaleUnit::kGroup) return end;
    const auto begin = tables_.groups.begin();
    const int32_t group = tables_.groups[static_cast<size_t>(input)];
    return std::find_if(begin + input, begin + end,
                        [group](int32_t other) { return other != group; }) -
           begin;
  }

  // Half precision's smallest scales round to zero, whatever the codes are.
  bool MayUnderflow() const {
    return scheme_.layout == QuantizedLayout::kGptq || scheme_.layout == QuantizedLayout::kAwq;
  }

  absl::Status Scale(int64_t row, float* values) const {
    const int64_t end = slice_.column_begin + slice_.num_columns;
    bool lost = false;
    float nan = 0;  // becomes NaN with the first code that is
    for (int64_t input = slice_.column_begin; input < end;) {
      const Factor factor = FactorOf(row, input);
      const int64_t run_end = RunEnd(input);
      float largest = 0;
      for (; input < run_end; ++input) {
        float& value = values[input - slice_.column_begin];
        const float code = value - factor.zero;
        nan += code * 0.0F;
        largest = std::max(largest, std::abs(code));
        value = code * factor.scale;
      }
      lost = lost || (factor.scale == 0 && largest > 0);
    }
    if (std::isnan(nan)) return Fault(module_.codes, "a code is NaN");
    if (lost && !MayUnderflow()) {
      return Fault(module_.scales, "a scale is zero, but the codes it belongs to are not");
    }
    return absl::OkStatus();
  }

  const StoredModule& module_;
  const QuantizationScheme& scheme_;
  const MatrixSlice slice_;
  ModuleTables tables_;
  MappedRows codes_;
  int64_t first_row_ = 0;     // of the mapped part of the stored tensor
  int64_t first_column_ = 0;  // of it, in words or bytes
  std::vector<float> values_;
};

}  // namespace

absl::Status Dequantize(const StoredModule& module, const MatrixSlice& slice,
                        const DequantizeTarget& target) {
  return Dequantizer(module, slice).Run(target);
}

absl::Status CheckValues(const StoredModule& module) {
  const absl::Status status =
      Dequantize(module, {0, module.rows, 0, module.cols}, {.dtype = DType::kF32, .data = nullptr});
  module.Release();
  return status;
}

}  // namespace tessera
