// Lines of a file, none of which takes more memory than allowed.
#ifndef TESSERA_SERVER_BATCH_LINE_READER_H_
#define TESSERA_SERVER_BATCH_LINE_READER_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

// Not thread-safe.
class LineReader {
 public:
  struct Line {
    int64_t number = 0;  // from 1
    int64_t end = 0;     // bytes of the file up to and with its end
    std::string text;    // without its end; of a line that is too long only the beginning
    bool is_too_long = false;
    bool is_whole = false;  // a line feed ends it
  };

  // Errors name the file. `max_bytes`: of one line.
  static absl::StatusOr<LineReader> Open(const std::string& path, int64_t max_bytes);

  // nullopt at the end of the file. INTERNAL when the file cannot be read on.
  absl::StatusOr<std::optional<Line>> Next();

 private:
  struct Close {
    void operator()(std::FILE* file) const {
      std::fclose(file);
    }  // NOLINT(cert-err33-c): read only
  };
  LineReader(std::string path, std::FILE* file, int64_t max_bytes);

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t max_bytes_;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // of what is not yet told, in buffer_
  size_t end_ = 0;
  int64_t number_ = 0;
  int64_t offset_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_BATCH_LINE_READER_H_
