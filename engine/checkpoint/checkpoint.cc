#include "engine/checkpoint/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "engine/checkpoint/shard_index.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr std::string_view kSingleName = "model.safetensors";
constexpr std::string_view kIndexName = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;

absl::StatusOr<ShardIndex> LoadShardIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxIndexBytes));
  absl::StatusOr<ShardIndex> index = ParseShardIndex(text);
  if (index.ok()) return index;
  const absl::string_view why = index.status().message();
  return absl::InvalidArgumentError(Message(path, ": ", std::string_view(why.data(), why.size())));
}

using Files = std::vector<std::unique_ptr<SafetensorsFile>>;

// Whatever the index lists must be in its shard.
absl::Status CheckListed(const ShardIndex& index, const Files& files, std::string_view index_path) {
  for (const ShardIndex::Entry& entry : index.entries) {
    const SafetensorsFile& file = *files[entry.file];
    if (file.Find(entry.tensor) != nullptr) continue;
    return absl::InvalidArgumentError(Message(file.path(), ": tensor ", PrintableName(entry.tensor),
                                              ": missing, but listed in ", index_path));
  }
  return absl::OkStatus();
}

// A shard must not hold what the index places in another one. Returns how many of its tensors the
// index does not list.
absl::StatusOr<int64_t> CheckPlaced(const ShardIndex& index, const Files& files, size_t shard,
                                    std::string_view index_path) {
  int64_t unlisted = 0;
  for (const SafetensorsEntry& tensor : files[shard]->tensors()) {
    const auto found =
        std::lower_bound(index.entries.begin(), index.entries.end(), tensor.name,
                         [](const ShardIndex::Entry& entry, const std::string& name) {
                           return entry.tensor < name;
                         });
    if (found == index.entries.end() || found->tensor != tensor.name) {
      ++unlisted;
    } else if (found->file != shard) {
      return absl::InvalidArgumentError(Message(files[shard]->path(), ": tensor ",
                                                PrintableName(tensor.name), ": ", index_path,
                                                " places it in ", index.files[found->file]));
    }
  }
  return unlisted;
}

absl::Status NoWeights(const std::string& directory) {
  for (const std::string_view name : {kSingleName, kIndexName}) {
    const std::string path = Message(directory, "/", name);
    std::error_code error;
    if (std::filesystem::is_symlink(path, error)) {
      return absl::NotFoundError(Message(path, ": is a link to ",
                                         std::filesystem::read_symlink(path, error).string(),
                                         ", which does not exist; download the model again"));
    }
  }
  return absl::NotFoundError(Message(directory, ": holds neither ", kSingleName, " nor ",
                                     kIndexName,
                                     "; give a Hugging Face model folder with "
                                     "safetensors weights"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(directory));
  // With both present the single file wins, as in the reference.
  absl::Status status = checkpoint->OpenSingle(Message(directory, "/", kSingleName));
  if (absl::IsNotFound(status)) {
    status = checkpoint->OpenShards(Message(directory, "/", kIndexName));
    if (absl::IsNotFound(status) && checkpoint->index_path_.empty()) return NoWeights(directory);
  }
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(checkpoint->Catalogue());
  return checkpoint;
}

absl::Status Checkpoint::OpenSingle(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file, SafetensorsFile::Open(path));
  index_path_ = path;
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::OpenShards(const std::string& index_path) {
  ASSIGN_OR_RETURN(const ShardIndex index, LoadShardIndex(index_path));
  index_path_ = index_path;
  for (const std::string& name : index.files) {
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                     SafetensorsFile::Open(Message(directory_, "/", name)));
    files_.push_back(std::move(file));
  }
  RETURN_IF_ERROR(CheckListed(index, files_, index_path));
  int64_t unlisted = 0;
  for (size_t shard = 0; shard < files_.size(); ++shard) {
    ASSIGN_OR_RETURN(const int64_t extra, CheckPlaced(index, files_, shard, index_path));
    unlisted += extra;
  }
  if (unlisted > 0) {
    warnings_.push_back(
        Message(index_path, ": does not list ", unlisted, " tensors that lie in the shards"));
  }
  int64_t stored = 0;
  for (const auto& file : files_) {
    for (const SafetensorsEntry& tensor : file->tensors()) stored += tensor.num_bytes;
  }
  if (index.total_size && *index.total_size != stored) {
    warnings_.push_back(Message(index_path, ": total_size says ", *index.total_size,
                                " bytes, the shards hold ", stored));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::Catalogue() {
  for (const auto& file : files_) {
    for (const SafetensorsEntry& entry : file->tensors()) {
      tensors_.push_back({file.get(), &entry});
      total_bytes_ += entry.num_bytes;
    }
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return a.entry->name < b.entry->name;
  });
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const StoredTensor& tensor = tensors_[i];
    if (i > 0 && tensors_[i - 1].entry->name == tensor.entry->name) {
      return absl::InvalidArgumentError(Message(tensor.file->path(), ": tensor ",
                                                PrintableName(tensor.entry->name), ": also in ",
                                                tensors_[i - 1].file->path()));
    }
    names_.push_back(tensor.entry->name);
  }
  return absl::OkStatus();
}

StoredTensor Checkpoint::Find(std::string_view name) const {
  const auto found = std::lower_bound(names_.begin(), names_.end(), name);
  if (found == names_.end() || *found != name) return {};
  return tensors_[static_cast<size_t>(found - names_.begin())];
}

int64_t Checkpoint::bytes_read() const {
  int64_t bytes = 0;
  for (const auto& file : files_) bytes += file->bytes_read();
  return bytes;
}

}  // namespace tessera
