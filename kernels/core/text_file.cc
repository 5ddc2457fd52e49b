#include "kernels/core/text_file.h"

#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/open_file.h"
#include "kernels/core/status_macros.h"

namespace tessera {

absl::StatusOr<std::string> ReadTextFile(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(const OpenFile file, OpenFile::Open(path));
  if (file.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", file.size(), " bytes, more than the limit of ", max_bytes));
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t count = ::read(file.descriptor(), text.data() + filled, text.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError(errno, path, "cannot read");
    if (count == 0) break;  // The file shrank meanwhile; what is left will not parse.
    filled += static_cast<size_t>(count);
  }
  text.resize(filled);
  return text;
}

}  // namespace tessera
