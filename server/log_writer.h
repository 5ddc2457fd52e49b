// Brings lines to stderr without ever making the threads that log wait.
#ifndef TESSERA_SERVER_LOG_WRITER_H_
#define TESSERA_SERVER_LOG_WRITER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "kernels/core/mutex.h"

namespace tessera {

// Thread-safe. A thread of its own writes, so a pipe that nobody reads, a full disk or a slow
// terminal stops only that. What does not fit into the queue is dropped and counted, and a line
// says how many were as soon as lines can be written again.
class LogWriter {
 public:
  static constexpr size_t kMaxQueuedBytes = size_t{256} << 10;

  // `file` is written to and stays the caller's. `dropped_line` makes the line that tells how many
  // are missing; called on the writing thread. Never destroyed: threads log until the process ends.
  LogWriter(int file, std::function<std::string(int64_t)> dropped_line);
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // `line` ends with a line feed.
  void Add(std::string line);
  // Waits until everything is written, but not longer than `limit`.
  void Flush(absl::Duration limit);
  int64_t dropped() const;

 private:
  [[noreturn]] void Run();
  std::deque<std::string> TakeLines();
  // False when the file takes nothing any more.
  bool Write(std::string_view text) const;
  void Drop(int64_t lines);

  const int file_;
  const std::function<std::string(int64_t)> dropped_line_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;      // of lines_ and of what is being written
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;   // ever
  int64_t not_told_ ABSL_GUARDED_BY(mutex_) = 0;  // of these
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_LOG_WRITER_H_
