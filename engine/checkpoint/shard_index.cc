#include "engine/checkpoint/shard_index.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/files/json_document.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

namespace dom = simdjson::dom;

constexpr size_t kMaxFileNameBytes = 255;
constexpr size_t kMaxFiles = 4096;
constexpr size_t kMaxEntries = size_t{1} << 20;
constexpr std::string_view kSuffix = ".safetensors";

bool IsPlainFileName(std::string_view name) {
  if (name.empty() || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char byte) {
    return static_cast<unsigned char>(byte) >= 0x20 && byte != '/' && byte != '\\' && byte != 0x7f;
  });
}

absl::Status CheckFileName(std::string_view tensor, std::string_view name) {
  const std::string where =
      Message("tensor ", PrintableName(tensor), ": file name ", PrintableName(name));
  if (!IsPlainFileName(name)) {
    return absl::InvalidArgumentError(
        Message(where, " must be a plain name of a file in the model folder"));
  }
  if (name.size() <= kSuffix.size() || name.substr(name.size() - kSuffix.size()) != kSuffix) {
    return absl::InvalidArgumentError(Message(where, " must end in ", kSuffix));
  }
  return absl::OkStatus();
}

absl::Status Fault(std::string_view what) { return absl::InvalidArgumentError(Message(what)); }

absl::Status ReadWeightMap(dom::element value, ShardIndex& index) {
  dom::object map;
  if (value.get(map) != simdjson::SUCCESS) return Fault("weight_map is not an object");
  absl::flat_hash_map<std::string_view, size_t> numbers;
  for (const auto& [tensor, file] : map) {
    if (index.entries.size() == kMaxEntries) return Fault("too many tensors");
    if (tensor.size() > kMaxSafetensorsNameBytes) return Fault("a tensor's name is too long");
    std::string_view name;
    if (file.get(name) != simdjson::SUCCESS || name.size() > kMaxFileNameBytes) {
      return Fault(Message("tensor ", PrintableName(tensor),
                           ": the file name is no string of at "
                           "most ",
                           kMaxFileNameBytes, " bytes"));
    }
    const auto [found, is_new] = numbers.try_emplace(name, index.files.size());
    index.entries.push_back({.tensor = std::string(tensor), .file = found->second});
    if (!is_new) continue;
    RETURN_IF_ERROR(CheckFileName(tensor, name));
    if (index.files.size() == kMaxFiles) return Fault("too many files");
    index.files.emplace_back(name);
  }
  return index.entries.empty() ? Fault("weight_map is empty") : absl::OkStatus();
}

// Only advice, so a writer's odd spelling ("1.0e9") does not make a model unusable.
void ReadMetadata(dom::element value, ShardIndex& index) {
  int64_t size = -1;
  if (value.at_key("total_size").get(size) == simdjson::SUCCESS && size >= 0) {
    index.total_size = size;
  }
}

absl::Status SortEntries(ShardIndex& index) {
  std::sort(index.entries.begin(), index.entries.end(),
            [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
  const auto twice =
      std::adjacent_find(index.entries.begin(), index.entries.end(),
                         [](const auto& a, const auto& b) { return a.tensor == b.tensor; });
  if (twice == index.entries.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Message("tensor ", PrintableName(twice->tensor), ": given twice"));
}

}  // namespace

absl::StatusOr<ShardIndex> ParseShardIndex(std::string_view json) {
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  dom::object root;
  if (document.root().get(root) != simdjson::SUCCESS) return Fault("must hold a JSON object");
  ShardIndex index;
  bool has_metadata = false;
  for (const auto& [key, value] : root) {
    if (key == "weight_map" && index.entries.empty()) {
      RETURN_IF_ERROR(ReadWeightMap(value, index));
    } else if (key == "metadata" && !has_metadata) {
      has_metadata = true;
      ReadMetadata(value, index);
    } else if (key == "weight_map" || key == "metadata") {
      return Fault(Message("key ", PrintableName(key), " given twice"));
    }
  }
  if (index.entries.empty()) return Fault("no weight_map");
  RETURN_IF_ERROR(SortEntries(index));
  return index;
}

}  // namespace tessera
