#include "server/batch/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"
#include "server/batch/fingerprint.h"
#include "server/batch/line_reader.h"
#include "server/json_text.h"

namespace tessera {
namespace {

// How every line begins; the end of the first two is the number of a line and a custom_id.
constexpr absl::string_view kHead = "{\"id\":\"batch_req_";
constexpr absl::string_view kMiddle = "\",\"custom_id\":";
constexpr int64_t kMaxHeadBytes = 8192;
constexpr int64_t kMaxLines = int64_t{1} << 31;

std::string Reason() { return std::generic_category().message(errno); }

struct AnswerHead {
  int64_t line = 0;
  std::string custom_id;
};

// nullopt: no line that BatchAnswerLine has made.
std::optional<AnswerHead> ReadHead(absl::string_view text) {
  if (!absl::ConsumePrefix(&text, kHead)) return std::nullopt;
  const size_t digits = text.find('"');
  AnswerHead head;
  if (digits == absl::string_view::npos || !absl::SimpleAtoi(text.substr(0, digits), &head.line) ||
      head.line < 1 || head.line > kMaxLines) {
    return std::nullopt;
  }
  text.remove_prefix(digits);
  if (!absl::ConsumePrefix(&text, kMiddle) || text.empty() || text[0] != '"') return std::nullopt;
  size_t end = 1;
  while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
  if (end >= text.size()) return std::nullopt;
  const auto id = nlohmann::json::parse(text.substr(0, end + 1), nullptr, false);
  if (!id.is_string()) return std::nullopt;
  head.custom_id = id.get<std::string>();
  return head;
}

// Whether `text` can be the beginning of an answer.
bool MayBeTorn(absl::string_view text) {
  return absl::StartsWith(text, kHead) || absl::StartsWith(kHead, text);
}

}  // namespace

std::string BatchRequestId(int64_t line) { return absl::StrCat("batch_req_", line); }

std::string BatchAnswerLine(const BatchAnswer& answer) {
  std::string line =
      absl::StrCat(kHead, answer.line, kMiddle, JsonQuoted(answer.custom_id), ",\"response\":");
  if (answer.http_status == 0) {
    absl::StrAppend(&line, "null,\"error\":{\"code\":\"invalid_line\",\"message\":",
                    JsonQuoted(answer.body), "}}\n");
  } else {
    absl::StrAppend(&line, "{\"status_code\":", answer.http_status, ",\"request_id\":\"",
                    BatchRequestId(answer.line), "\",\"body\":", answer.body,
                    "},\"error\":null}\n");
  }
  return line;
}

absl::StatusOr<BatchOutput> BatchOutput::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0) {
    return absl::FailedPreconditionError(absl::StrCat("cannot open ", path, ": ", Reason()));
  }
  BatchOutput output(path, file);
  struct stat facts = {};
  if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is no plain file: what is answered could not be read from it"));
  }
  if (flock(file, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": another process writes to it; a batch is worked on once at a time"));
  }
  RETURN_IF_ERROR(output.Read());
  return output;
}

BatchOutput::BatchOutput(BatchOutput&& other) noexcept
    : path_(std::move(other.path_)),
      file_(std::exchange(other.file_, -1)),
      answered_(std::move(other.answered_)),
      num_answered_(other.num_answered_) {}

BatchOutput::~BatchOutput() {
  if (file_ >= 0) close(file_);
}

absl::Status BatchOutput::Read() {
  ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path_, kMaxHeadBytes));
  int64_t whole = 0;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line) return absl::OkStatus();
    const std::optional<AnswerHead> head = ReadHead(line->text);
    const bool is_ours = line->is_whole ? head.has_value() : MayBeTorn(line->text);
    if (!is_ours) {
      return absl::FailedPreconditionError(absl::StrCat(
          path_, ", line ", line->number, ": no answer of a batch; is this the right file?"));
    }
    if (!line->is_whole) break;
    RETURN_IF_ERROR(Note(head->line, head->custom_id, line->number));
    whole = line->end;
  }
  if (ftruncate(file_, whole) == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot cut off the end of ", path_, ": ", Reason()));
}

absl::Status BatchOutput::Note(int64_t line, std::string_view custom_id, int64_t output_line) {
  const auto index = static_cast<size_t>(line);
  if (index >= answered_.size()) answered_.resize(index + index / 2 + 1);
  if (answered_[index] != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ", line ", output_line, ": a second answer to line ", line, " of the input"));
  }
  answered_[index] = Fingerprint(custom_id);
  ++num_answered_;
  return absl::OkStatus();
}

absl::StatusOr<bool> BatchOutput::IsAnswered(int64_t line, std::string_view custom_id) const {
  const auto index = static_cast<size_t>(line);
  if (index >= answered_.size() || answered_[index] == 0) return false;
  if (answered_[index] == Fingerprint(custom_id)) return true;
  return absl::FailedPreconditionError(absl::StrCat(
      "line ", line, " has the custom_id \"", std::string(custom_id.substr(0, 200)), "\", but ",
      path_, " has an answer to another one for it: the input has changed; write to a new file"));
}

bool BatchOutput::IsSameFile(const std::string& path) const {
  struct stat one = {};
  struct stat other = {};
  return fstat(file_, &one) == 0 && stat(path.c_str(), &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

absl::Status BatchOutput::Append(const BatchAnswer& answer) {
  const std::string line = BatchAnswerLine(answer);
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      return absl::InternalError(absl::StrCat("cannot write ", path_, ": ", Reason()));
    }
    rest.remove_prefix(static_cast<size_t>(written));
  }
  return Note(answer.line, answer.custom_id, 0);
}

}  // namespace tessera
