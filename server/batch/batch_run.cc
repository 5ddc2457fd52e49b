#include "server/batch/batch_run.h"

#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "server/batch/batch_line.h"
#include "server/batch/fingerprint.h"
#include "server/batch/line_reader.h"

namespace tessera {
namespace {

constexpr int64_t kMaxLineBytes = 4 << 20;  // as servers limit bodies

// Blank lines separate; they ask for nothing.
bool IsBlank(const LineReader::Line& line) {
  return !line.is_too_long && absl::StripAsciiWhitespace(line.text).empty();
}

absl::StatusOr<int64_t> CountLines(const std::string& path) {
  ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path, kMaxLineBytes));
  int64_t count = 0;
  while (true) {
    ASSIGN_OR_RETURN(const std::optional<LineReader::Line> line, reader.Next());
    if (!line) return count;
    if (!IsBlank(*line)) ++count;
  }
}

class BatchRun {
 public:
  BatchRun(const BatchOptions& options, Answerer* answerer, BatchOutput* output, LineReader reader,
           int64_t lines)
      : options_(options), answerer_(*answerer), output_(*output), reader_(std::move(reader)) {
    progress_.lines = lines;
  }

  absl::Status Run(BatchProgress* progress) {
    std::vector<std::thread> threads;
    {
      absl::MutexLock lock(&mutex_);
      num_working_ = options_.concurrency;
    }
    for (int32_t i = 0; i < options_.concurrency; ++i) threads.emplace_back([this] { Work(); });
    Report();
    for (std::thread& thread : threads) thread.join();
    absl::MutexLock lock(&mutex_);
    *progress = Now();
    return error_;
  }

 private:
  // A line that is to be answered; when it cannot be read, that is the answer.
  struct Task {
    int64_t line = 0;
    BatchRequest request;
    std::optional<BatchAnswer> unreadable;
  };

  void Work() {
    while (true) {
      absl::StatusOr<std::optional<Task>> task = NextTask();
      if (!task.ok()) Stop(task.status());
      if (!task.ok() || !*task) break;
      absl::StatusOr<BatchAnswer> answer = (*task)->unreadable
                                               ? *std::move((*task)->unreadable)
                                               : answerer_.Answer((*task)->line, (*task)->request);
      if (!answer.ok()) {
        Stop(absl::Status(answer.status().code(),
                          absl::StrCat("line ", (*task)->line, ": ", answer.status().message())));
        break;
      }
      Keep(*answer);
    }
    absl::MutexLock lock(&mutex_);
    --num_working_;
  }

  // nullopt: there is nothing left to do.
  absl::StatusOr<std::optional<Task>> NextTask() {
    absl::MutexLock lock(&mutex_);
    while (error_.ok()) {
      ASSIGN_OR_RETURN(std::optional<LineReader::Line> line, reader_.Next());
      if (!line) return std::nullopt;
      if (IsBlank(*line)) continue;
      ASSIGN_OR_RETURN(std::optional<Task> task, TaskOf(*line));
      if (task) return task;
    }
    return std::nullopt;
  }

  // nullopt: the line is answered.
  absl::StatusOr<std::optional<Task>> TaskOf(const LineReader::Line& line)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Task task{.line = line.number};
    std::string custom_id = absl::StrCat("line-", line.number);
    absl::StatusOr<BatchRequest> request = absl::InvalidArgumentError(
        absl::StrCat("the line is longer than ", kMaxLineBytes, " bytes"));
    if (!line.is_too_long) {
      request = ReadBatchLine(std::string(absl::StripAsciiWhitespace(line.text)), line.number,
                              *options_.defaults, &custom_id);
    }
    if (request.ok() && !seen_.insert(Fingerprint(custom_id)).second) {
      request = absl::InvalidArgumentError(
          absl::StrCat("an earlier line has the custom_id \"", custom_id, "\", too"));
    }
    ASSIGN_OR_RETURN(const bool is_answered, output_.IsAnswered(line.number, custom_id));
    if (is_answered) {
      ++progress_.earlier;
      return std::nullopt;
    }
    if (request.ok()) {
      task.request = *std::move(request);
      return task;
    }
    task.unreadable =
        BatchAnswer{.line = line.number,
                    .custom_id = std::move(custom_id),
                    .body = absl::StrCat("line ", line.number, ": ", request.status().message())};
    return task;
  }

  void Keep(const BatchAnswer& answer) {
    absl::MutexLock lock(&mutex_);
    if (const absl::Status status = output_.Append(answer); !status.ok()) {
      if (error_.ok()) error_ = status;
      return;
    }
    progress_.output_tokens += answer.output_tokens;
    if (answer.http_status == 200) {
      ++progress_.answered;
      return;
    }
    ++progress_.failed;
    if (!options_.on_failure) return;
    options_.on_failure(
        answer.line, answer.http_status == 0
                         ? answer.body
                         : absl::StrCat("line ", answer.line, ": HTTP ", answer.http_status, ": ",
                                        answer.body.substr(0, 500)));
  }

  void Stop(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (error_.ok()) error_ = status;
  }

  BatchProgress Now() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    BatchProgress now = progress_;
    now.seconds = absl::ToDoubleSeconds(MonotonicNow() - begin_);
    return now;
  }

  void Report() {
    const auto is_over = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return num_working_ == 0; };
    absl::MutexLock lock(&mutex_);
    while (!AwaitFor(&mutex_, absl::Condition(&is_over), options_.period)) {
      if (options_.on_progress) options_.on_progress(Now());
    }
  }

  const BatchOptions& options_;
  Answerer& answerer_;
  const absl::Time begin_ = MonotonicNow();
  absl::Mutex mutex_;
  BatchOutput& output_ ABSL_GUARDED_BY(mutex_);
  LineReader reader_ ABSL_GUARDED_BY(mutex_);
  BatchProgress progress_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<uint64_t> seen_ ABSL_GUARDED_BY(mutex_);  // fingerprints of custom_ids
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  int32_t num_working_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

absl::Status RunBatch(const BatchOptions& options, Answerer* answerer, BatchOutput* output,
                      BatchProgress* progress) {
  if (output->IsSameFile(options.input)) {
    return absl::FailedPreconditionError("input and output are the same file");
  }
  ASSIGN_OR_RETURN(const int64_t lines, CountLines(options.input));
  ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(options.input, kMaxLineBytes));
  return BatchRun(options, answerer, output, std::move(reader), lines).Run(progress);
}

}  // namespace tessera
