#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/cpu/weight.h"

namespace tessera::cpu {
namespace {

constexpr int64_t kWords = 16;  // 32-bit words of a row that one transposition takes

// One stored row, or zeros.
struct SourceRow {
  const char* data = nullptr;
  DType dtype = DType::kF32;
};

bool KeepsEveryBitInBf16(const WeightSource& source) {
  return std::all_of(source.parts.begin(), source.parts.end(),
                     [](const HostMatrix& part) { return part.dtype == DType::kBF16; });
}

SourceRow FindRow(const WeightSource& source, int64_t row) {
  for (const HostMatrix& part : source.parts) {
    if (row < part.rows) {
      const int64_t element = row * part.row_stride;
      return {
          static_cast<const char*>(part.data) + element * static_cast<int64_t>(SizeOf(part.dtype)),
          part.dtype};
    }
    row -= part.rows;
  }
  return {};
}

template <typename T>
T LoadUnaligned(const char* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

float Element(const SourceRow& row, int64_t index) {
  if (row.dtype == DType::kF32) return LoadUnaligned<float>(row.data, index);
  const auto bits = LoadUnaligned<uint16_t>(row.data, index);
  return row.dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
}

// `count` elements from `begin` on as 16 words (bfloat16: 32 elements), zeros beyond.
void ConvertWords(const SourceRow& row, bool bf16, int64_t begin, int64_t count, void* words) {
  std::memset(words, 0, kWords * 4);
  if (row.data == nullptr) return;
  const bool verbatim = row.dtype == (bf16 ? DType::kBF16 : DType::kF32);
  if (verbatim) {
    const int64_t size = bf16 ? 2 : 4;
    std::memcpy(words, row.data + begin * size, count * size);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float value = Element(row, begin + i);
    if (bf16) {
      static_cast<uint16_t*>(words)[i] = FloatToBF16(value);
    } else {
      static_cast<float*>(words)[i] = value;
    }
  }
}

// Equal for sources that give equal panels: the same places in memory, packed in the same way.
std::string SourceKey(const WeightSource& source, const PanelForm& form) {
  std::string key = absl::StrCat(form.quantized ? "codes "
                                 : form.bf16    ? "bf16 "
                                                : "f32 ",
                                 source.pad_rows);
  for (const HostMatrix& part : source.parts) {
    if (part.origin.empty()) {
      absl::StrAppend(&key, " ", reinterpret_cast<uintptr_t>(part.data));
    } else {
      absl::StrAppend(&key, " (", part.origin, ")");
    }
    absl::StrAppend(&key, ":", static_cast<int>(part.dtype), ":", part.rows, "x", part.cols, "+",
                    part.row_stride);
  }
  return key;
}

void PackPanel(const Context& context, const WeightSource& source, bool bf16, int64_t panel,
               char* destination) {
  const int64_t cols = source.parts[0].cols;
  const int64_t step = bf16 ? 2 * kWords : kWords;
  const DType verbatim = bf16 ? DType::kBF16 : DType::kF32;
  SourceRow rows[kPanel];
  for (int64_t i = 0; i < kPanel; ++i) rows[i] = FindRow(source, panel * kPanel + i);
  alignas(64) uint32_t words[kPanel][kWords];
  alignas(64) uint32_t last_block[kWords * kPanel];
  const void* block[kPanel];
  for (int64_t begin = 0; begin < cols; begin += step) {
    const int64_t count = std::min(step, cols - begin);
    for (int64_t i = 0; i < kPanel; ++i) {
      if (count == step && rows[i].data != nullptr && rows[i].dtype == verbatim) {
        block[i] = rows[i].data + begin * (bf16 ? 2 : 4);
      } else {
        ConvertWords(rows[i], bf16, begin, count, words[i]);
        block[i] = words[i];
      }
    }
    char* out = destination + begin * kPanel * (bf16 ? 2 : 4);
    if (count == step) {
      context.kernels.transpose(block, out);
    } else {
      context.kernels.transpose(block, last_block);
      std::memcpy(out, last_block, PanelSize(count, bf16) * (bf16 ? 2 : 4));
    }
  }
}

PanelForm FormOf(const WeightSource& source) {
  const HostMatrix& first = source.parts[0];
  if (!first.quantized()) {
    return {.bf16 = source.dtype == DType::kBF16 || KeepsEveryBitInBf16(source)};
  }
  PanelForm form{.bf16 = source.dtype == DType::kBF16, .quantized = true};
  form.type = first.dtype == DType::kI8       ? PanelCode::kInt8
              : first.dtype == DType::kF8E4M3 ? PanelCode::kE4M3
                                              : PanelCode::kInt4;
  form.has_zeros = first.codes.zeros != nullptr;
  form.groups = first.codes.groups;
  form.group_size = first.codes.group_size;
  form.group_offset = first.codes.group_offset;
  return form;
}

// The part that holds a row, and the row's number in it; null where rows are padding.
struct PartRow {
  const HostMatrix* part = nullptr;
  int64_t row = 0;
};
PartRow FindPart(const WeightSource& source, int64_t row) {
  for (const HostMatrix& part : source.parts) {
    if (row < part.rows) return {&part, row};
    row -= part.rows;
  }
  return {};
}

// One row's codes, scales and zeros into its lane of a panel that is all zeros. What pads rows and
// an odd number of columns stays at a code of zero or gets a scale of zero.
void PackLane(const PanelForm& form, const PartRow& from, int64_t lane, uint8_t* panel) {
  const HostMatrix& part = *from.part;
  const auto* const codes = static_cast<const uint8_t*>(part.data) + from.row * part.row_stride;
  for (int64_t k = 0; k < part.cols; ++k) {
    const int64_t place = lane * 2 + k % 2;  // of the 32 of a line
    if (form.type != PanelCode::kInt4) {
      panel[k / 2 * 2 * kPanel + place] = codes[k];
    } else {
      const int shift = place < kPanel ? 0 : 4;
      panel[k / 2 * kPanel + place % kPanel] |= static_cast<uint8_t>(codes[k] << shift);
    }
  }
  uint8_t* const scales = panel + PanelCodeBytes(part.cols, form.type);
  uint8_t* const zeros = scales + form.groups * kPanel * 4;
  for (int64_t g = 0; g < form.groups; ++g) {
    const int64_t index = from.row * form.groups + g;
    std::memcpy(scales + (g * kPanel + lane) * 4, part.codes.scales + index, 4);
    if (form.has_zeros) zeros[g * kPanel + lane] = part.codes.zeros[index];
  }
}

void PackCodePanel(const WeightSource& source, const PanelForm& form, int64_t panel,
                   char* destination) {
  std::memset(destination, 0, form.Bytes(source.parts[0].cols));
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    const PartRow row = FindPart(source, panel * kPanel + lane);
    if (row.part == nullptr) continue;
    PackLane(form, row, lane, reinterpret_cast<uint8_t*>(destination));
  }
}

}  // namespace

int64_t PanelForm::Bytes(int64_t cols) const {
  if (!quantized) return ValueBytes(cols);
  constexpr int64_t kLine = 64;  // panels begin at cache lines
  const int64_t bytes = PanelCodeBytes(cols, type) + groups * kPanel * (4 + (has_zeros ? 1 : 0));
  return (bytes + kLine - 1) / kLine * kLine;
}

PanelCodes PanelForm::CodesAt(const void* panel, int64_t cols) const {
  const auto* const bytes = static_cast<const uint8_t*>(panel);
  const auto* const scales = bytes + PanelCodeBytes(cols, type);
  return {.type = type,
          .codes = bytes,
          .scales = reinterpret_cast<const float*>(scales),
          .zeros = has_zeros ? scales + groups * kPanel * 4 : nullptr,
          .k = cols,
          .group_size = group_size,
          .group_offset = group_offset};
}

absl::StatusOr<std::unique_ptr<Weight>> PackedWeight::Create(const Context& context,
                                                             const Home& home,
                                                             const WeightSource& source) {
  const PanelForm form = FormOf(source);
  const int64_t cols = source.parts[0].cols;
  int64_t rows = source.pad_rows;
  for (const HostMatrix& part : source.parts) rows += part.rows;
  const auto pack = [&](Device& device) -> absl::StatusOr<DeviceBuffer> {
    const int64_t panels = (rows + kPanel - 1) / kPanel;
    const int64_t panel_bytes = form.Bytes(cols);
    ASSIGN_OR_RETURN(DeviceBuffer storage, device.Allocate(panels * panel_bytes, "a weight"));
    auto* data = static_cast<char*>(storage.data());
    context.For(panels, static_cast<double>(rows * cols), [&](int64_t panel) {
      char* const destination = data + panel * panel_bytes;
      if (form.quantized) {
        PackCodePanel(source, form, panel, destination);
      } else {
        PackPanel(context, source, form.bf16, panel, destination);
      }
    });
    return storage;
  };
  std::shared_ptr<const DeviceBuffer> storage;
  if (home.shared != nullptr) {
    ASSIGN_OR_RETURN(storage, home.shared->Get(SourceKey(source, form), pack));
  } else {
    ASSIGN_OR_RETURN(DeviceBuffer own, pack(home.device));
    storage = std::make_shared<const DeviceBuffer>(std::move(own));
  }
  return std::make_unique<PackedWeight>(std::move(storage), source.dtype, form, rows, cols);
}

void PackedWeight::CopyRow(const Context& context, int64_t row, float* out) const {
  const int64_t lane = row % kPanel;
  const void* values = Stored(row / kPanel);
  if (form_.quantized) {
    void* const unpacked = Scratch<char, ScratchUse::kUnpacked>(value_bytes());
    Unpack(context, row / kPanel, unpacked);
    values = unpacked;
  }
  if (form_.bf16) {
    const auto* pairs = static_cast<const uint16_t*>(values) + lane * 2;
    for (int64_t k = 0; k < cols_; ++k) {
      out[k] = BF16ToFloat(pairs[k / 2 * 2 * kPanel + k % 2]);
    }
  } else {
    const auto* floats = static_cast<const float*>(values) + lane;
    for (int64_t k = 0; k < cols_; ++k) out[k] = floats[k * kPanel];
  }
}

}  // namespace tessera::cpu
