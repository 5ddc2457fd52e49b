#include "engine/checkpoint/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

uint64_t LoadLittleEndian64(const std::byte* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = (value << 8) | static_cast<uint64_t>(bytes[i]);
  return value;
}

// begin <= ... <= begin + count <= limit, without overflow.
bool RangeFits(int64_t begin, int64_t count, int64_t limit) {
  return begin >= 0 && count >= 0 && begin <= limit && count <= limit - begin;
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::string path, OpenFile file)
    : path_(std::move(path)), file_(std::move(file)) {}

SafetensorsFile::~SafetensorsFile() {
  // munmap takes a mutable address although the mapping is read-only.
  if (base_ != nullptr) {
    ::munmap(const_cast<std::byte*>(base_), static_cast<size_t>(file_.size()));
  }
}

absl::Status SafetensorsFile::Error(std::string_view what) const {
  return absl::InvalidArgumentError(Message(path_, ": ", what));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(OpenFile opened, OpenFile::Open(path));
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path, std::move(opened)));
  RETURN_IF_ERROR(file->MapFile());
  RETURN_IF_ERROR(file->ParseHeader());
  return file;
}

absl::Status SafetensorsFile::MapFile() {
  if (file_.size() < kSafetensorsPrefixBytes) {
    return Error(Message("has ", file_.size(), " bytes, too few for a safetensors file"));
  }
  void* base = ::mmap(nullptr, static_cast<size_t>(file_.size()), PROT_READ, MAP_SHARED,
                      file_.descriptor(), 0);
  if (base == MAP_FAILED) return FileError(errno, path_, "cannot map into memory");
  base_ = static_cast<const std::byte*>(base);
  return absl::OkStatus();
}

absl::Status SafetensorsFile::ParseHeader() {
  const uint64_t header_bytes = LoadLittleEndian64(base_);
  if (header_bytes > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return Error(Message("malformed header: its size ", header_bytes, " is above ",
                         kMaxSafetensorsHeaderBytes));
  }
  if (header_bytes > static_cast<uint64_t>(file_.size() - kSafetensorsPrefixBytes)) {
    return Error(Message("the header of ", header_bytes, " bytes is longer than the file of ",
                         file_.size(), " bytes; the file is truncated"));
  }
  const std::string_view header(reinterpret_cast<const char*>(base_) + kSafetensorsPrefixBytes,
                                header_bytes);
  absl::StatusOr<std::vector<SafetensorsEntry>> entries =
      ParseSafetensorsHeader(header, file_.size());
  if (!entries.ok()) {
    const absl::string_view why = entries.status().message();
    return Error(std::string_view(why.data(), why.size()));
  }
  entries_ = *std::move(entries);
  by_name_.resize(entries_.size());
  std::iota(by_name_.begin(), by_name_.end(), size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [this](size_t a, size_t b) { return entries_[a].name < entries_[b].name; });
  return absl::OkStatus();
}

const SafetensorsEntry* SafetensorsFile::Find(std::string_view name) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [this](size_t index, std::string_view key) {
                                        return std::string_view(entries_[index].name) < key;
                                      });
  if (found == by_name_.end() || entries_[*found].name != name) return nullptr;
  return &entries_[*found];
}

absl::Status SafetensorsFile::CheckNotTruncated() const {
  if (file_.CurrentSize() >= file_.size()) return absl::OkStatus();
  return absl::DataLossError(Message(path_, ": was truncated while it was being read"));
}

absl::StatusOr<const std::byte*> SafetensorsFile::Map(const SafetensorsEntry& entry) const {
  RETURN_IF_ERROR(CheckNotTruncated());
  bytes_read_.fetch_add(entry.num_bytes, std::memory_order_relaxed);
  return base_ + entry.data_begin;
}

absl::StatusOr<MappedRows> SafetensorsFile::MapSlice(const SafetensorsEntry& entry,
                                                     const MatrixSlice& slice) const {
  if (!entry.dtype) {
    return absl::UnimplementedError(Message(path_, ": tensor ", PrintableName(entry.name),
                                            ": cannot slice ", entry.dtype_name));
  }
  const auto element = static_cast<int64_t>(SizeOf(*entry.dtype));
  const int64_t columns = entry.shape.empty() ? 1 : entry.shape.back();
  const int64_t rows = columns == 0 ? 0 : entry.num_bytes / element / columns;
  if (!RangeFits(slice.row_begin, slice.num_rows, rows) ||
      !RangeFits(slice.column_begin, slice.num_columns, columns)) {
    return absl::OutOfRangeError(Message(path_, ": tensor ", PrintableName(entry.name),
                                         ": slice outside of ", ShapeText(entry.shape)));
  }
  RETURN_IF_ERROR(CheckNotTruncated());
  bytes_read_.fetch_add(slice.num_rows * slice.num_columns * element, std::memory_order_relaxed);
  const int64_t stride = columns * element;
  const int64_t offset = slice.row_begin * stride + slice.column_begin * element;
  return MappedRows{base_ + entry.data_begin + offset, stride};
}

void SafetensorsFile::Release(const SafetensorsEntry& entry) const {
  static const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t begin = entry.data_begin / page * page;
  const int64_t end = entry.data_begin + entry.num_bytes;
  if (end == begin) return;
  // Advice only: when the system refuses, the pages leave later, under memory pressure.
  ::madvise(const_cast<std::byte*>(base_ + begin), static_cast<size_t>(end - begin), MADV_DONTNEED);
}

}  // namespace tessera
