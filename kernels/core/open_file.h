// Opening a file that must be a regular one, with an error that tells what to do.
#ifndef TESSERA_KERNELS_CORE_OPEN_FILE_H_
#define TESSERA_KERNELS_CORE_OPEN_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace tessera {

// A read-only descriptor of a regular file, closed at the end of its life.
class OpenFile {
 public:
  // Follows symbolic links (Hugging Face caches are made of them); what they lead to must be a
  // regular file. Never blocks on a pipe or device. Every error names the path.
  static absl::StatusOr<OpenFile> Open(const std::string& path);

  OpenFile(OpenFile&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}
  OpenFile& operator=(OpenFile&& other) noexcept;
  ~OpenFile();

  int descriptor() const { return descriptor_; }
  // Bytes when it was opened.
  int64_t size() const { return size_; }
  // Bytes now; -1 when the system cannot tell.
  int64_t CurrentSize() const;

 private:
  OpenFile(int descriptor, int64_t size) : descriptor_(descriptor), size_(size) {}
  void Close();

  int descriptor_ = -1;
  int64_t size_ = 0;
};

// The status for a failed system call on a path: "PATH: cannot open: Permission denied".
absl::Status FileError(int error_number, const std::string& path, const char* action);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_OPEN_FILE_H_
