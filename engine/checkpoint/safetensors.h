// One memory-mapped safetensors file.
#ifndef TESSERA_ENGINE_CHECKPOINT_SAFETENSORS_H_
#define TESSERA_ENGINE_CHECKPOINT_SAFETENSORS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/safetensors_header.h"
#include "kernels/core/open_file.h"

namespace tessera {

// A rectangle of a tensor seen as a matrix [product of all dimensions but the last, the last].
struct MatrixSlice {
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  int64_t column_begin = 0;
  int64_t num_columns = 0;
};

// Where bytes of a file are mapped: row i begins at data + i * row_stride. Not aligned: read
// elements with memcpy or unaligned loads. Valid while the file object lives.
struct MappedRows {
  const std::byte* data = nullptr;
  int64_t row_stride = 0;  // bytes
};

// Read-only view of a file. Pages enter memory when they are first touched and leave it with
// Release(), so that only what is being packed is resident. Opening touches the header only.
//
// A file that another process truncates while it is mapped cannot be read: every Map() compares
// its size with the size at opening and fails with DataLoss. Truncation between Map() and the
// reading of the bytes still raises SIGBUS; replace checkpoints by renaming, never in place.
//
// Thread-safe after Open.
class SafetensorsFile {
 public:
  // Every error is one line that names the file, and the tensor where one is at fault.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();

  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  // In the order of their data.
  const std::vector<SafetensorsEntry>& tensors() const { return entries_; }
  // nullptr when there is none; lives as long as the file object.
  const SafetensorsEntry* Find(std::string_view name) const;

  // The whole tensor. entry: one of tensors().
  absl::StatusOr<const std::byte*> Map(const SafetensorsEntry& entry) const;
  // A part of it; OutOfRange when the slice leaves the tensor. Types narrower than a byte have no
  // slices (Unimplemented).
  absl::StatusOr<MappedRows> MapSlice(const SafetensorsEntry& entry,
                                      const MatrixSlice& slice) const;
  // Drops the pages of a tensor from this process; mapping it again reads them again.
  void Release(const SafetensorsEntry& entry) const;

  // Bytes handed out by Map and MapSlice so far: the reads that loading asked for.
  int64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }

 private:
  SafetensorsFile(std::string path, OpenFile file);
  absl::Status MapFile();
  absl::Status ParseHeader();
  absl::Status CheckNotTruncated() const;
  absl::Status Error(std::string_view what) const;

  const std::string path_;
  const OpenFile file_;
  const std::byte* base_ = nullptr;
  std::vector<SafetensorsEntry> entries_;
  std::vector<size_t> by_name_;  // indices into entries_, sorted by name
  mutable std::atomic<int64_t> bytes_read_{0};
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_CHECKPOINT_SAFETENSORS_H_
