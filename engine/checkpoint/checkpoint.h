// The weights of a model folder, in one file or in shards.
#ifndef TESSERA_ENGINE_CHECKPOINT_CHECKPOINT_H_
#define TESSERA_ENGINE_CHECKPOINT_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/safetensors.h"

namespace tessera {

// A tensor and the file it lives in. Valid while the checkpoint lives.
struct StoredTensor {
  const SafetensorsFile* file = nullptr;
  const SafetensorsEntry* entry = nullptr;

  absl::StatusOr<const std::byte*> Map() const { return file->Map(*entry); }
  absl::StatusOr<MappedRows> MapSlice(const MatrixSlice& slice) const {
    return file->MapSlice(*entry, slice);
  }
  void Release() const { file->Release(*entry); }
};

// Opens model.safetensors, or the shards of model.safetensors.index.json. Shards may be symbolic
// links, as in a Hugging Face cache. Opening reads headers only. Thread-safe after Open.
class Checkpoint {
 public:
  // Every error is one line that names the file, and the tensor where one is at fault: a missing
  // or damaged file, a tensor the index places in a shard that lacks it, a tensor in two shards.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);

  // nullopt-like: file is nullptr when there is none.
  StoredTensor Find(std::string_view name) const;
  bool Contains(std::string_view name) const { return Find(name).file != nullptr; }
  // Sorted.
  const std::vector<std::string_view>& names() const { return names_; }
  // Of all tensors, as stored.
  int64_t total_bytes() const { return total_bytes_; }
  // Handed out by Map and MapSlice so far, over all files.
  int64_t bytes_read() const;
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  const std::string& directory() const { return directory_; }
  // The file to name when a tensor is missing: the only one, or the index.
  const std::string& index_path() const { return index_path_; }
  // Oddities that do no harm, one line each.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  explicit Checkpoint(std::string directory) : directory_(std::move(directory)) {}
  absl::Status OpenSingle(const std::string& path);
  absl::Status OpenShards(const std::string& index_path);
  // Fills tensors_, names_ and total_bytes_.
  absl::Status Catalogue();

  std::string directory_;
  std::string index_path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<StoredTensor> tensors_;    // sorted by name
  std::vector<std::string_view> names_;  // of tensors_
  int64_t total_bytes_ = 0;
  std::vector<std::string> warnings_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_CHECKPOINT_CHECKPOINT_H_
