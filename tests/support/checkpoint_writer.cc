#include "tests/support/checkpoint_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "engine/files/message.h"
#include "engine/model/checkpoint_check.h"
#include "engine/model/model_config.h"
#include "kernels/core/open_file.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kBufferElements = size_t{1} << 19;
constexpr int32_t kMaxShards = 1000;

uint64_t HashName(std::string_view name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325U ^ seed;  // FNV-1a
  for (const char byte : name) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
  return hash;
}

// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): eight weights
// from every output.
uint64_t RandomWord(uint64_t key, uint64_t counter) {
  uint64_t word = key + (counter + 1) * 0x9e3779b97f4a7c15U;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9U;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebU;
  return word ^ (word >> 31);
}

// Exact for the values below: they have at most seven significant bits.
uint16_t FloatToF16Exact(float value) {
  if (value == 0.0F) return 0;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t exponent = ((bits >> 23) & 0xffU) - 127 + 15;
  return static_cast<uint16_t>(((bits >> 16) & 0x8000U) | (exponent << 10) |
                               ((bits >> 13) & 0x3ffU));
}

// The bit patterns of the 256 values a tensor is drawn from.
class ValueTable {
 public:
  ValueTable(bool is_norm, DType dtype, float scale = 1) : element_bytes_(SizeOf(dtype)) {
    for (int byte = 0; byte < 256; ++byte) {
      const int level = std::max(byte - 128, -127);
      // Multiples of 1/64 around 1 and of 1/4096 around 0 are exact in all three types.
      const float value = is_norm ? 1.0F + static_cast<float>(level / 16) / 64.0F
                                  : scale * static_cast<float>(level) / 4096.0F;
      bits_[static_cast<size_t>(byte)] = dtype == DType::kF32    ? std::bit_cast<uint32_t>(value)
                                         : dtype == DType::kBF16 ? FloatToBF16(value)
                                                                 : FloatToF16Exact(value);
    }
  }

  // Elements [first, first + count) of a tensor; first is a multiple of 8.
  void Fill(uint64_t key, uint64_t first, size_t count, std::vector<char>& out) const {
    out.resize(count * element_bytes_);
    element_bytes_ == 2 ? FillTyped<uint16_t>(key, first, count, out)
                        : FillTyped<uint32_t>(key, first, count, out);
  }

 private:
  template <typename Bits>
  void FillTyped(uint64_t key, uint64_t first, size_t count, std::vector<char>& out) const {
    for (size_t i = 0; i < count; i += 8) {
      uint64_t word = RandomWord(key, (first + i) / 8);
      std::array<Bits, 8> values;
      for (Bits& value : values) {
        value = static_cast<Bits>(bits_[word & 0xffU]);
        word >>= 8;
      }
      std::memcpy(out.data() + i * sizeof(Bits), values.data(),
                  std::min<size_t>(8, count - i) * sizeof(Bits));
    }
  }

  size_t element_bytes_;
  std::array<uint32_t, 256> bits_;
};

int64_t ElementsOf(const ExpectedTensor& tensor) {
  int64_t count = 1;
  for (const int64_t dim : tensor.shape) count *= dim;
  return count;
}

bool IsNorm(const ExpectedTensor& tensor) {
  return tensor.name.find("norm.weight") != std::string::npos;
}

bool IsRouter(const ExpectedTensor& tensor) {
  return tensor.name.find(".mlp.gate.weight") != std::string::npos;
}

class OutputFile {
 public:
  explicit OutputFile(std::string path)
      : path_(std::move(path)), file_(std::fopen(path_.c_str(), "wb"), &std::fclose) {}

  absl::Status Write(std::string_view bytes) {
    errno = 0;
    if (file_ == nullptr ||
        std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
      return FileError(errno, path_, "cannot write");
    }
    return absl::OkStatus();
  }

  absl::Status Close() {
    if (file_ == nullptr || std::fclose(file_.release()) != 0) {
      return FileError(errno, path_, "cannot write");
    }
    return absl::OkStatus();
  }

 private:
  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE*)> file_;
};

using Tensors = std::vector<ExpectedTensor>;

std::string HeaderOf(const Tensors& tensors, DType dtype) {
  const std::string_view type = dtype == DType::kF32    ? "F32"
                                : dtype == DType::kBF16 ? "BF16"
                                                        : "F16";
  std::string header = R"({"__metadata__":{"format":"pt"})";
  int64_t end = 0;
  for (const ExpectedTensor& tensor : tensors) {
    const int64_t begin = end;
    end += ElementsOf(tensor) * static_cast<int64_t>(SizeOf(dtype));
    header +=
        Message(",\"", tensor.name, "\":{\"dtype\":\"", type, "\",\"shape\":[",
                absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", begin, ",", end, "]}");
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  return header;
}

absl::Status WriteTensor(const ExpectedTensor& tensor, const CheckpointWriterOptions& options,
                         std::vector<char>& buffer, OutputFile& file) {
  const ValueTable values(IsNorm(tensor), options.dtype);
  constexpr float kFavour = 8;
  const ValueTable favoured(false, options.dtype, kFavour);
  const auto num_favoured =
      IsRouter(tensor) ? static_cast<uint64_t>(options.favoured_experts * tensor.shape[1]) : 0;
  const uint64_t key = HashName(tensor.name, options.seed);
  const auto total = static_cast<uint64_t>(ElementsOf(tensor));
  for (uint64_t first = 0; first < total;) {
    const bool favour = first < num_favoured;
    const uint64_t end = favour ? num_favoured : total;
    const uint64_t count = std::min<uint64_t>(kBufferElements, end - first);
    (favour ? favoured : values).Fill(key, first, count, buffer);
    first += count;
    RETURN_IF_ERROR(file.Write(std::string_view(buffer.data(), buffer.size())));
  }
  return absl::OkStatus();
}

absl::Status WriteShard(const std::string& path, const Tensors& tensors,
                        const CheckpointWriterOptions& options) {
  OutputFile file(path);
  const std::string header = HeaderOf(tensors, options.dtype);
  std::string prefix;
  for (int i = 0; i < 8; ++i) {
    prefix += static_cast<char>((static_cast<uint64_t>(header.size()) >> (8 * i)) & 0xffU);
  }
  RETURN_IF_ERROR(file.Write(prefix));
  RETURN_IF_ERROR(file.Write(header));
  std::vector<char> buffer;
  for (const ExpectedTensor& tensor : tensors) {
    RETURN_IF_ERROR(WriteTensor(tensor, options, buffer, file));
  }
  return file.Close();
}

// Per-expert tensors of a layer replaced by the two fused ones.
Tensors FuseExperts(const ModelConfig& config, const Tensors& tensors) {
  Tensors fused;
  for (const ExpectedTensor& tensor : tensors) {
    if (tensor.name.find(".mlp.experts.") == std::string::npos) fused.push_back(tensor);
  }
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.layer_is_moe[static_cast<size_t>(layer)]) continue;
    const int64_t width = config.moe_intermediate_size;
    const int64_t hidden = config.hidden_size;
    fused.push_back({FusedGateUpName(layer), {config.num_experts, 2 * width, hidden}});
    fused.push_back({FusedDownName(layer), {config.num_experts, hidden, width}});
  }
  return fused;
}

// Consecutive tensors, about the same number of elements in each shard, none empty.
std::vector<Tensors> SplitIntoShards(Tensors tensors, int32_t num_shards) {
  int64_t total = 0;
  for (const ExpectedTensor& tensor : tensors) total += ElementsOf(tensor);
  std::vector<Tensors> shards(1);
  int64_t before = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto wanted = static_cast<int64_t>(shards.size());
    const auto missing_shards = static_cast<size_t>(num_shards - wanted);
    const bool full = before >= total / num_shards * wanted;
    if (!shards.back().empty() && missing_shards > 0 &&
        (full || tensors.size() - i <= missing_shards)) {
      shards.emplace_back();
    }
    before += ElementsOf(tensors[i]);
    shards.back().push_back(std::move(tensors[i]));
  }
  return shards;
}

std::string ShardName(size_t shard, size_t count) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", shard + 1, count);
  return name.data();
}

absl::Status WriteText(const std::string& path, std::string_view text) {
  OutputFile file(path);
  RETURN_IF_ERROR(file.Write(text));
  return file.Close();
}

absl::Status WriteShards(const std::vector<Tensors>& shards, const std::string& directory,
                         const CheckpointWriterOptions& options) {
  if (shards.size() == 1) return WriteShard(directory + "/model.safetensors", shards[0], options);
  std::vector<std::string> map;
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = ShardName(i, shards.size());
    RETURN_IF_ERROR(WriteShard(Message(directory, "/", name), shards[i], options));
    for (const ExpectedTensor& tensor : shards[i]) {
      total += ElementsOf(tensor) * static_cast<int64_t>(SizeOf(options.dtype));
      map.push_back(Message("    \"", tensor.name, "\": \"", name, "\""));
    }
  }
  return WriteText(directory + "/model.safetensors.index.json",
                   Message("{\n  \"metadata\": {\"total_size\": ", total,
                           "},\n  \"weight_map\": {\n", absl::StrJoin(map, ",\n"), "\n  }\n}\n"));
}

absl::Status CopyTokenizer(const std::string& from, const std::string& to) {
  namespace fs = std::filesystem;
  if (from.empty()) return absl::OkStatus();
  bool found = false;
  for (const std::string name : {"tokenizer.json", "tokenizer_config.json",
                                 "generation_config.json", "chat_template.jinja"}) {
    std::error_code error;
    if (!fs::exists(Message(from, "/", name), error)) continue;
    found = true;
    fs::copy_file(Message(from, "/", name), Message(to, "/", name),
                  fs::copy_options::overwrite_existing, error);
    if (error) return FileError(error.value(), Message(to, "/", name), "cannot copy to");
  }
  return found ? absl::OkStatus()
               : absl::NotFoundError(Message(from, ": holds no tokenizer files"));
}

}  // namespace

absl::Status WriteRandomCheckpoint(std::string_view config_json, const std::string& directory,
                                   const CheckpointWriterOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(config_json, "config.json"));
  if (SizeOf(options.dtype) < 2 || SizeOf(options.dtype) > 4 || options.dtype == DType::kI32) {
    return absl::InvalidArgumentError("dtype must be bfloat16, float16 or float32");
  }
  Tensors tensors = ExpectedTensors(config);
  if (options.fused_experts) tensors = FuseExperts(config, tensors);
  if (options.num_shards < 1 || options.num_shards > kMaxShards ||
      static_cast<size_t>(options.num_shards) > tensors.size()) {
    return absl::InvalidArgumentError(Message("number of shards must be from 1 to ",
                                              std::min<size_t>(kMaxShards, tensors.size())));
  }
  if (options.favoured_experts < 0 || options.favoured_experts > config.num_experts ||
      config.hidden_size % 8 != 0) {
    return absl::InvalidArgumentError("only experts that exist can be favoured");
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return FileError(error.value(), directory, "cannot create");
  RETURN_IF_ERROR(WriteText(directory + "/config.json", config_json));
  RETURN_IF_ERROR(CopyTokenizer(options.tokenizer_directory, directory));
  return WriteShards(SplitIntoShards(std::move(tensors), options.num_shards), directory, options);
}

}  // namespace tessera
