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
std::string SourceKey(const WeightSource& source, bool bf16) {
  std::string key = absl::StrCat(bf16 ? "bf16" : "f32", " ", source.pad_rows);
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

}  // namespace

absl::StatusOr<std::unique_ptr<Weight>> PackedWeight::Create(const Context& context,
                                                             const Home& home,
                                                             const WeightSource& source) {
  const bool bf16 = source.dtype == DType::kBF16 || KeepsEveryBitInBf16(source);
  const int64_t cols = source.parts[0].cols;
  int64_t rows = source.pad_rows;
  for (const HostMatrix& part : source.parts) rows += part.rows;
  const auto pack = [&](Device& device) -> absl::StatusOr<DeviceBuffer> {
    const int64_t panels = (rows + kPanel - 1) / kPanel;
    const int64_t panel_bytes = PanelSize(cols, bf16) * (bf16 ? 2 : 4);
    ASSIGN_OR_RETURN(DeviceBuffer storage, device.Allocate(panels * panel_bytes, "a weight"));
    auto* data = static_cast<char*>(storage.data());
    context.For(panels, static_cast<double>(rows * cols), [&](int64_t panel) {
      PackPanel(context, source, bf16, panel, data + panel * panel_bytes);
    });
    return storage;
  };
  std::shared_ptr<const DeviceBuffer> storage;
  if (home.shared != nullptr) {
    ASSIGN_OR_RETURN(storage, home.shared->Get(SourceKey(source, bf16), pack));
  } else {
    ASSIGN_OR_RETURN(DeviceBuffer own, pack(home.device));
    storage = std::make_shared<const DeviceBuffer>(std::move(own));
  }
  return std::make_unique<PackedWeight>(std::move(storage), source.dtype, bf16, rows, cols);
}

void PackedWeight::CopyRow(int64_t row, float* out) const {
  const int64_t lane = row % kPanel;
  if (bf16_) {
    const auto* pairs = static_cast<const uint16_t*>(panel(row / kPanel)) + lane * 2;
    for (int64_t k = 0; k < cols_; ++k) {
      out[k] = BF16ToFloat(pairs[k / 2 * 2 * kPanel + k % 2]);
    }
  } else {
    const auto* values = static_cast<const float*>(panel(row / kPanel)) + lane;
    for (int64_t k = 0; k < cols_; ++k) out[k] = values[k * kPanel];
  }
}

}  // namespace tessera::cpu
