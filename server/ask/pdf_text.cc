#include "server/ask/pdf_text.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr size_t kMaxTextBytes = size_t{256} << 20;

// One end of a pipe, or another file of this process.
class OpenFile {
 public:
  explicit OpenFile(int number) : number_(number) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { Close(); }
  void Close() {
    if (number_ >= 0) close(number_);
    number_ = -1;
  }
  int number() const { return number_; }

 private:
  int number_;
};

// False when there is more than may be.
bool ReadAll(int file, std::string* text) {
  std::array<char, 1 << 16> buffer;
  while (true) {
    const ssize_t count = read(file, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return true;
    if (text->size() + static_cast<size_t>(count) > kMaxTextBytes) return false;
    text->append(buffer.data(), static_cast<size_t>(count));
  }
}

// The exit code; 127 when there is no such program, -1 when a signal ended it.
int ExitCode(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

absl::StatusOr<std::string> PdfText(const std::string& path) {
  // A name that begins with a dash is no option.
  std::string file = path.starts_with('-') ? absl::StrCat("./", path) : path;
  std::vector<std::string> arguments = {"pdftotext", "-q", "-enc", "UTF-8", "-layout", file, "-"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  std::array<int, 2> ends = {-1, -1};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot make a pipe: ", std::generic_category().message(errno)));
  }
  OpenFile reading(ends[0]);
  OpenFile writing(ends[1]);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, writing.number(), STDOUT_FILENO);
  pid_t child = 0;
  const int error = posix_spawnp(&child, "pdftotext", &files, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  writing.Close();
  if (error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path,
                     ": PDF files need the program pdftotext (Debian: poppler-utils), which "
                     "cannot be started: ",
                     std::generic_category().message(error)));
  }
  std::string text;
  const bool is_whole = ReadAll(reading.number(), &text);
  reading.Close();  // ends a child that has more to say
  const int code = ExitCode(child);
  if (!is_whole) return absl::InvalidArgumentError(absl::StrCat(path, ": its text is too large"));
  if (code == 0) return text;
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": pdftotext cannot read it (exit code ", code,
      code == 3 ? ": it does not allow copying)" : "); is it damaged or protected by a password?"));
}

}  // namespace tessera
