#include "engine/checkpoint/shard_index.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "engine/checkpoint/json_scanner.h"
#include "engine/checkpoint/message.h"
#include "engine/checkpoint/safetensors_header.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kMaxFileNameBytes = 255;
constexpr size_t kMaxFiles = 4096;
constexpr size_t kMaxEntries = size_t{1} << 20;
constexpr size_t kMaxKeyBytes = 64;
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

absl::Status ReadWeightMap(JsonScanner& scanner, ShardIndex& index) {
  absl::flat_hash_map<std::string, size_t> numbers;
  RETURN_IF_ERROR(scanner.Expect('{'));
  if (scanner.Accept('}')) return scanner.Error("weight_map is empty");
  std::string name;
  do {
    ShardIndex::Entry& entry = index.entries.emplace_back();
    if (index.entries.size() > kMaxEntries) return scanner.Error("too many tensors");
    RETURN_IF_ERROR(scanner.ReadString(kMaxSafetensorsNameBytes, entry.tensor));
    RETURN_IF_ERROR(scanner.Expect(':'));
    RETURN_IF_ERROR(scanner.ReadString(kMaxFileNameBytes, name));
    const auto [found, is_new] = numbers.try_emplace(name, index.files.size());
    entry.file = found->second;
    if (!is_new) continue;
    RETURN_IF_ERROR(CheckFileName(entry.tensor, name));
    if (index.files.size() == kMaxFiles) return scanner.Error("too many files");
    index.files.push_back(name);
  } while (scanner.Accept(','));
  return scanner.Expect('}');
}

absl::Status ReadMetadata(JsonScanner& scanner, ShardIndex& index) {
  if (scanner.Peek() != '{') return scanner.SkipValue();  // null, for example
  RETURN_IF_ERROR(scanner.Expect('{'));
  if (scanner.Accept('}')) return absl::OkStatus();
  std::string key;
  do {
    RETURN_IF_ERROR(scanner.ReadString(kMaxSafetensorsNameBytes, key));
    RETURN_IF_ERROR(scanner.Expect(':'));
    if (key != "total_size") {
      RETURN_IF_ERROR(scanner.SkipValue());
      continue;
    }
    // Only advice, so a writer's odd spelling ("1.0e9") does not make a model unusable.
    JsonScanner lookahead = scanner;
    int64_t size = 0;
    if (lookahead.ReadUnsigned(size).ok()) index.total_size = size;
    RETURN_IF_ERROR(scanner.SkipValue());
  } while (scanner.Accept(','));
  return scanner.Expect('}');
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
  JsonScanner scanner(json);
  ShardIndex index;
  bool has_metadata = false;
  std::string key;
  RETURN_IF_ERROR(scanner.Expect('{'));
  if (scanner.Accept('}')) return scanner.Error("no weight_map");
  do {
    RETURN_IF_ERROR(scanner.ReadString(kMaxKeyBytes, key));
    RETURN_IF_ERROR(scanner.Expect(':'));
    if (key == "weight_map" && index.entries.empty()) {
      RETURN_IF_ERROR(ReadWeightMap(scanner, index));
    } else if (key == "metadata" && !has_metadata) {
      has_metadata = true;
      RETURN_IF_ERROR(ReadMetadata(scanner, index));
    } else if (key == "weight_map" || key == "metadata") {
      return scanner.Error(Message("key ", PrintableName(key), " given twice"));
    } else {
      RETURN_IF_ERROR(scanner.SkipValue());
    }
  } while (scanner.Accept(','));
  RETURN_IF_ERROR(scanner.Expect('}'));
  if (scanner.Peek() != '\0' || !scanner.at_end()) return scanner.Error("text behind the object");
  if (index.entries.empty()) return scanner.Error("no weight_map");
  RETURN_IF_ERROR(SortEntries(index));
  return index;
}

}  // namespace tessera
