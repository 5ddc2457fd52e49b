// The file of a batch's answers: whole lines only, one per line of the input, however often the
// program that writes it is killed.
#ifndef TESSERA_SERVER_BATCH_BATCH_OUTPUT_H_
#define TESSERA_SERVER_BATCH_BATCH_OUTPUT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// What became of one line of the input.
struct BatchAnswer {
  int64_t line = 0;  // from 1
  std::string custom_id;
  int http_status = 0;        // 0: the line could not be read, and `body` says why, as text
  std::string body;           // JSON
  int64_t output_tokens = 0;  // generated
};

// {"id":"batch_req_N","custom_id":…,"response":{"status_code","request_id","body"},"error":null},
// or with response null and error {"code","message"}; ends with a line feed.
std::string BatchAnswerLine(const BatchAnswer& answer);
// What servers are asked to log the request as.
std::string BatchRequestId(int64_t line);

// Not thread-safe.
class BatchOutput {
 public:
  // Opens or makes the file, which no other process may have open as this, reads which lines are
  // answered in it, and cuts off an answer that was not written to its end. FAILED_PRECONDITION for
  // a file that is something else.
  static absl::StatusOr<BatchOutput> Open(const std::string& path);
  BatchOutput(BatchOutput&& other) noexcept;
  BatchOutput& operator=(BatchOutput&&) = delete;
  ~BatchOutput();

  // Whether the line is answered. FAILED_PRECONDITION when the answer is one to another custom_id:
  // the input has changed.
  absl::StatusOr<bool> IsAnswered(int64_t line, std::string_view custom_id) const;
  int64_t num_answered() const { return num_answered_; }
  // Whether `path` is this file, too.
  bool IsSameFile(const std::string& path) const;

  // One write of a whole line; an error leaves whole lines behind, or one that Open cuts off.
  absl::Status Append(const BatchAnswer& answer);

 private:
  BatchOutput(std::string path, int file) : path_(std::move(path)), file_(file) {}

  absl::Status Read();
  absl::Status Note(int64_t line, std::string_view custom_id, int64_t output_line);

  std::string path_;
  int file_;
  std::vector<uint64_t> answered_;  // by line: the fingerprint of its custom_id; 0: not answered
  int64_t num_answered_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_BATCH_BATCH_OUTPUT_H_
