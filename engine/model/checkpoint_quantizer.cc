#include "engine/model/checkpoint_quantizer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_join.h"
#include "engine/files/message.h"
#include "engine/model/checkpoint_check.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";
constexpr int64_t kCodesPerWord = 8;

struct OutputTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// A tensor of the model: what it becomes, and where its values are.
struct Item {
  std::vector<OutputTensor> outputs;
  StoredTensor source;
  MatrixSlice rows;  // of the source; of a quantised matrix
  bool quantized = false;
};

// A matrix's outputs, one behind the other, as bytes.
using Bytes = std::vector<std::vector<char>>;

float ValueAt(const std::byte* row, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, row + index * 4, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, row + index * 2, sizeof(bits));
  return dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
}

// The codes of one row into the outputs of its matrix.
void QuantizeRow(CodeFormat format, const std::vector<float>& values, int64_t row, Bytes* out) {
  const size_t cols = values.size();
  const auto at = static_cast<size_t>(row);
  if (format == CodeFormat::kInt8) {
    auto* const codes = reinterpret_cast<int8_t*>((*out)[0].data()) + at * cols;
    const float scale = QuantizeInt8(values, {codes, cols});
    std::memcpy((*out)[1].data() + at * sizeof(scale), &scale, sizeof(scale));
    return;
  }
  if (format == CodeFormat::kFp8) {
    auto* const codes = reinterpret_cast<uint8_t*>((*out)[0].data()) + at * cols;
    const float scale = QuantizeFp8(values, {codes, cols});
    std::memcpy((*out)[1].data() + at * sizeof(scale), &scale, sizeof(scale));
    return;
  }
  constexpr auto kGroup = static_cast<size_t>(kInt4Group);
  for (size_t group = 0; group < cols / kGroup; ++group) {
    int8_t codes[kGroup];
    const uint16_t scale = QuantizeInt4({values.data() + group * kGroup, kGroup}, {codes, kGroup});
    std::memcpy((*out)[1].data() + (at * (cols / kGroup) + group) * 2, &scale, sizeof(scale));
    char* const words = (*out)[0].data() + (at * cols + group * kGroup) / 2;
    for (size_t i = 0; i < kGroup; i += 2) {
      words[i / 2] = static_cast<char>((codes[i] + 8) | ((codes[i + 1] + 8) << 4));
    }
  }
}

class Writer {
 public:
  Writer(const ModelConfig& config, const Checkpoint& checkpoint,
         const CheckpointQuantizerOptions& options)
      : config_(config), checkpoint_(checkpoint), options_(options) {}

  absl::StatusOr<std::vector<std::string>> Write(const std::string& path,
                                                 const LoadProgress& progress) {
    RETURN_IF_ERROR(ListItems());
    file_.open(path, std::ios::binary | std::ios::trunc);
    WriteHeader();
    double done = 0;
    for (const Item& item : items_) {
      RETURN_IF_ERROR(item.quantized ? WriteQuantized(item) : Copy(item));
      if (progress) progress(++done / static_cast<double>(items_.size()));
    }
    file_.close();
    if (file_.fail()) return absl::DataLossError(Message(path, ": cannot be written"));
    return plain_;
  }

 private:
  absl::Status ListItems() {
    std::vector<ExpectedTensor> expected = ExpectedTensors(config_);
    expected.front().name = EmbeddingName(config_, checkpoint_);
    for (const ExpectedTensor& tensor : expected) {
      if (&tensor != &expected.front() && tensor.shape.size() == 2) {
        RETURN_IF_ERROR(AddMatrix(tensor));
      } else {
        RETURN_IF_ERROR(AddCopy(tensor.name));
      }
    }
    // Tied by the configuration, and stored with other values.
    ASSIGN_OR_RETURN(const bool own_head, HasOwnHead(config_, checkpoint_));
    return own_head && config_.tie_word_embeddings ? AddCopy("lm_head.weight") : absl::OkStatus();
  }

  absl::Status AddCopy(const std::string& name) {
    const StoredTensor source = checkpoint_.Find(name);
    if (source.file == nullptr) {
      return absl::NotFoundError(Message(checkpoint_.index_path(), ": no tensor ", name));
    }
    items_.push_back({.outputs = {{.name = name,
                                   .dtype = std::string(source.entry->dtype_name),
                                   .shape = source.entry->shape,
                                   .bytes = source.entry->num_bytes}},
                      .source = source,
                      .rows = {},
                      .quantized = false});
    return absl::OkStatus();
  }

  // Experts of the fused layout: [experts, 2 * width, hidden] and [experts, hidden, width].
  absl::Status FindRows(const ExpectedTensor& tensor, Item* item) const {
    item->source = checkpoint_.Find(tensor.name);
    item->rows = {0, tensor.shape[0], 0, tensor.shape[1]};
    if (item->source.file != nullptr) return absl::OkStatus();
    for (int32_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      const std::string prefix = Message("model.layers.", layer, ".mlp.experts.");
      if (!tensor.name.starts_with(prefix)) continue;
      const std::string rest = tensor.name.substr(prefix.size());
      const int64_t expert = std::strtoll(rest.c_str(), nullptr, 10);
      const bool down = rest.find("down_proj") != std::string::npos;
      const bool up = rest.find("up_proj") != std::string::npos;
      item->source = checkpoint_.Find(down ? FusedDownName(layer) : FusedGateUpName(layer));
      const int64_t rows = tensor.shape[0];
      item->rows.row_begin = down ? expert * rows : (2 * expert + (up ? 1 : 0)) * rows;
      if (item->source.file != nullptr) return absl::OkStatus();
    }
    return absl::NotFoundError(Message(checkpoint_.index_path(), ": no tensor ", tensor.name));
  }

  absl::Status AddMatrix(const ExpectedTensor& tensor) {
    const std::string module = tensor.name.substr(0, tensor.name.size() - kWeightSuffix.size());
    Item item;
    RETURN_IF_ERROR(FindRows(tensor, &item));
    const int64_t rows = tensor.shape[0];
    const int64_t cols = tensor.shape[1];
    const bool four_bits = options_.format == CodeFormat::kInt4;
    item.quantized = module != "lm_head" && !module.ends_with(".mlp.gate") &&
                     !(four_bits && cols % kInt4Group != 0);
    if (!item.quantized) plain_.push_back(module);
    if (!item.quantized) {
      const StoredTensor& source = item.source;
      const auto bytes = static_cast<int64_t>(SizeOf(*source.entry->dtype));
      item.outputs = {
          {tensor.name, std::string(source.entry->dtype_name), tensor.shape, rows * cols * bytes}};
    } else if (four_bits) {
      const int64_t groups = cols / kInt4Group;
      item.outputs = {
          {module + ".weight_packed", "I32", {rows, cols / kCodesPerWord}, rows * cols / 2},
          {module + ".weight_scale", "BF16", {rows, groups}, rows * groups * 2},
          {module + ".weight_shape", "I64", {2}, 16}};
    } else {
      item.outputs = {{module + ".weight",
                       options_.format == CodeFormat::kInt8 ? "I8" : "F8_E4M3",
                       {rows, cols},
                       rows * cols},
                      {module + ".weight_scale", "F32", {rows, 1}, rows * 4}};
    }
    items_.push_back(std::move(item));
    return absl::OkStatus();
  }

  void WriteHeader() {
    std::vector<std::string> entries = {"\"__metadata__\":{\"format\":\"pt\"}"};
    int64_t end = 0;
    for (const Item& item : items_) {
      for (const OutputTensor& tensor : item.outputs) {
        const int64_t begin = end;
        end += tensor.bytes;
        entries.push_back(Message("\"", tensor.name, "\":{\"dtype\":\"", tensor.dtype,
                                  "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                                  "],\"data_offsets\":[", begin, ",", end, "]}"));
      }
    }
    std::string header = Message("{", absl::StrJoin(entries, ","), "}");
    constexpr size_t kAlignment = 8;
    header.resize((header.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
    const uint64_t size = header.size();
    file_.write(reinterpret_cast<const char*>(&size), sizeof(size));
    file_.write(header.data(), static_cast<std::streamsize>(size));
  }

  void Append(const char* data, int64_t bytes) {
    file_.write(data, static_cast<std::streamsize>(bytes));
  }

  absl::Status Copy(const Item& item) {
    if (item.rows.num_rows == 0) {
      ASSIGN_OR_RETURN(const std::byte* const data, item.source.Map());
      Append(reinterpret_cast<const char*>(data), item.outputs[0].bytes);
    } else {
      ASSIGN_OR_RETURN(const MappedRows mapped, item.source.MapSlice(item.rows));
      Append(reinterpret_cast<const char*>(mapped.data), item.outputs[0].bytes);
    }
    item.source.Release();
    return absl::OkStatus();
  }

  absl::Status WriteQuantized(const Item& item) {
    ASSIGN_OR_RETURN(const MappedRows mapped, item.source.MapSlice(item.rows));
    Bytes bytes;
    for (const OutputTensor& tensor : item.outputs) {
      bytes.emplace_back(static_cast<size_t>(tensor.bytes));
    }
    const DType dtype = *item.source.entry->dtype;
    std::atomic<int64_t> next{0};
    std::atomic<bool> finite{true};
    const auto work = [&] {
      std::vector<float> values(static_cast<size_t>(item.rows.num_columns));
      for (int64_t row = next.fetch_add(1); row < item.rows.num_rows; row = next.fetch_add(1)) {
        const std::byte* const from = mapped.data + row * mapped.row_stride;
        for (size_t k = 0; k < values.size(); ++k) {
          values[k] = ValueAt(from, dtype, static_cast<int64_t>(k));
          if (!std::isfinite(values[k])) finite = false;
        }
        if (finite) QuantizeRow(options_.format, values, row, &bytes);
      }
    };
    std::vector<std::thread> workers;
    for (int i = 1; i < options_.threads; ++i) workers.emplace_back(work);
    work();
    for (std::thread& worker : workers) worker.join();
    if (!finite) {
      return absl::InvalidArgumentError(Message(item.source.file->path(), ": tensor ",
                                                PrintableName(item.source.entry->name),
                                                ": values are NaN or infinite"));
    }
    if (options_.format == CodeFormat::kInt4) {
      const int64_t shape[2] = {item.rows.num_rows, item.rows.num_columns};
      std::memcpy(bytes[2].data(), shape, sizeof(shape));
    }
    for (const std::vector<char>& part : bytes) {
      Append(part.data(), static_cast<int64_t>(part.size()));
    }
    item.source.Release();
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const Checkpoint& checkpoint_;
  const CheckpointQuantizerOptions options_;
  std::vector<Item> items_;
  std::vector<std::string> plain_;
  std::ofstream file_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> WriteQuantizedCheckpoint(
    const ModelConfig& config, const Checkpoint& checkpoint,
    const CheckpointQuantizerOptions& options, const std::string& path,
    const LoadProgress& progress) {
  if (config.quantization) {
    return absl::InvalidArgumentError(Message(checkpoint.directory(), ": is quantised already (",
                                              QuantizationText(*config.quantization),
                                              "); give the model it was made from"));
  }
  absl::StatusOr<std::vector<std::string>> plain =
      Writer(config, checkpoint, options).Write(path, progress);
  std::error_code error;
  if (!plain.ok()) std::filesystem::remove(path, error);
  return plain;
}

}  // namespace tessera
