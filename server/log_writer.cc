#include "server/log_writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "kernels/core/background_thread.h"
#include "kernels/core/monotonic_time.h"

namespace tessera {
LogWriter::LogWriter(int file, std::function<std::string(int64_t)> dropped_line)
    : file_(file), dropped_line_(std::move(dropped_line)) {}

void LogWriter::Add(std::string line) {
  MutexLock lock(&mutex_);
  if (bytes_ + line.size() > kMaxQueuedBytes) {
    ++dropped_;
    ++not_told_;
    return;
  }
  bytes_ += line.size();
  lines_.push_back(std::move(line));
  if (!std::exchange(started_, true)) StartBackgroundThread([this] { Run(); });
  changed_.SignalAll();
}

void LogWriter::Flush(absl::Duration limit) {
  WaitLimit wait(limit);
  MutexLock lock(&mutex_);
  while (bytes_ > 0) {
    const absl::Duration left = wait.left();
    if (left <= absl::ZeroDuration()) return;
    changed_.WaitWithTimeout(&mutex_, left);
  }
}

int64_t LogWriter::dropped() const {
  MutexLock lock(&mutex_);
  return dropped_;
}

void LogWriter::Run() {
  while (true) {
    std::deque<std::string> lines = TakeLines();
    size_t written = 0;
    bool works = true;
    for (const std::string& line : lines) {
      works = works && Write(line);
      if (!works) Drop(1);
      written += line.size();
    }
    int64_t missing = 0;
    {
      MutexLock lock(&mutex_);
      bytes_ -= written;
      if (works) missing = std::exchange(not_told_, 0);
      changed_.SignalAll();
    }
    if (missing > 0 && !Write(dropped_line_(missing))) Drop(0);
  }
}

std::deque<std::string> LogWriter::TakeLines() {
  MutexLock lock(&mutex_);
  while (lines_.empty()) changed_.Wait(&mutex_);
  return std::exchange(lines_, {});
}

bool LogWriter::Write(std::string_view text) const {
  // What a pipe that says it is ready takes at once.
  constexpr size_t kPiece = 4096;
  while (!text.empty()) {
    pollfd ready = {.fd = file_, .events = POLLOUT, .revents = 0};
    poll(&ready, 1, /*timeout=*/-1);
    const ssize_t count = write(file_, text.data(), std::min(text.size(), kPiece));
    if (count < 0 && errno != EINTR && errno != EAGAIN) return false;
    if (count > 0) text.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

void LogWriter::Drop(int64_t lines) {
  MutexLock lock(&mutex_);
  dropped_ += lines;
  not_told_ += lines;
}

}  // namespace tessera
