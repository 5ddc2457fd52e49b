#include "server/batch/line_reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr size_t kBufferBytes = 1 << 16;

std::string Reason() { return std::generic_category().message(errno); }

}  // namespace

LineReader::LineReader(std::string path, std::FILE* file, int64_t max_bytes)
    : path_(std::move(path)), file_(file), max_bytes_(max_bytes), buffer_(kBufferBytes) {}

absl::StatusOr<LineReader> LineReader::Open(const std::string& path, int64_t max_bytes) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file != nullptr) return LineReader(path, file, max_bytes);
  return absl::FailedPreconditionError(absl::StrCat("cannot open ", path, ": ", Reason()));
}

absl::StatusOr<std::optional<LineReader::Line>> LineReader::Next() {
  Line line{.number = number_ + 1, .end = offset_};
  while (true) {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
      if (std::ferror(file_.get()) != 0) {
        return absl::InternalError(absl::StrCat("cannot read ", path_, ": ", Reason()));
      }
      if (end_ == 0) break;
    }
    const char* from = buffer_.data() + begin_;
    const size_t size = end_ - begin_;
    const auto* found = static_cast<const char*>(std::memchr(from, '\n', size));
    const size_t taken = found == nullptr ? size : static_cast<size_t>(found - from);
    const auto room = static_cast<size_t>(max_bytes_) - line.text.size();
    line.text.append(from, std::min(taken, room));
    line.is_too_long |= taken > room;
    line.is_whole = found != nullptr;
    const size_t read = taken + (line.is_whole ? 1 : 0);
    begin_ += read;
    line.end += static_cast<int64_t>(read);
    if (line.is_whole) break;
  }
  if (line.end == offset_) return std::nullopt;
  offset_ = line.end;
  number_ = line.number;
  return line;
}

}  // namespace tessera
