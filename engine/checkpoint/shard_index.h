// model.safetensors.index.json: which file holds which tensor.
#ifndef TESSERA_ENGINE_CHECKPOINT_SHARD_INDEX_H_
#define TESSERA_ENGINE_CHECKPOINT_SHARD_INDEX_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct ShardIndex {
  struct Entry {
    std::string tensor;
    size_t file = 0;  // index into files
  };
  std::vector<std::string> files;     // plain names inside the model folder, each once
  std::vector<Entry> entries;         // sorted by tensor, each once
  std::optional<int64_t> total_size;  // bytes of all tensors, as the writer counted them
};

// Refuses anything but {"metadata": {...}, "weight_map": {tensor: file}}: duplicate keys, and file
// names that are not plain names (no "/", "\", "..", control characters) or do not end in
// ".safetensors". Errors are InvalidArgument, one line; the caller adds the file.
absl::StatusOr<ShardIndex> ParseShardIndex(std::string_view json);

}  // namespace tessera

#endif  // TESSERA_ENGINE_CHECKPOINT_SHARD_INDEX_H_
