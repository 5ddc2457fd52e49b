#include "server/access/file_watch.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/monotonic_time.h"
#include "server/logging.h"

namespace tessera {

FileWatch::FileWatch(std::vector<std::string> paths, std::function<absl::Status()> reload,
                     absl::Duration interval)
    : paths_(std::move(paths)),
      reload_(std::move(reload)),
      interval_(interval),
      seen_(Signature()),
      thread_([this] { Run(); }) {}

FileWatch::~FileWatch() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  thread_.join();
}

void FileWatch::ReadNow() {
  absl::MutexLock lock(&mutex_);
  asked_ = true;
}

std::string FileWatch::Signature() const {
  std::string signature;
  for (const std::string& path : paths_) {
    struct stat info = {};
    if (stat(path.c_str(), &info) != 0) info = {};
    absl::StrAppend(&signature, info.st_dev, ":", info.st_ino, ":", info.st_size, ":", info.st_mode,
                    ":", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ":", info.st_ctim.tv_sec,
                    ".", info.st_ctim.tv_nsec, ";");
  }
  return signature;
}

// False when it is time to end.
bool FileWatch::Sleep() {
  absl::MutexLock lock(&mutex_);
  const auto woken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return asked_ || stopped_; };
  AwaitFor(&mutex_, absl::Condition(&woken), interval_);
  return !stopped_;
}

void FileWatch::Run() {
  while (Sleep()) {
    std::string now = Signature();
    bool asked = false;
    {
      absl::MutexLock lock(&mutex_);
      asked = std::exchange(asked_, false);
    }
    if (now == seen_ && !asked && !failed_) continue;
    seen_ = std::move(now);
    Reload();
  }
}

void FileWatch::Reload() {
  const absl::Status status = Guarded(reload_);
  const bool failed_before = std::exchange(failed_, !status.ok());
  if (status.ok()) {
    last_error_.clear();
    return LogInfo(absl::StrCat("read again: ", absl::StrJoin(paths_, ", ")));
  }
  if (!failed_before || last_error_ == status.message()) return;
  last_error_ = std::string(status.message());
  LogError(absl::StrCat(last_error_, "; what was there before stays in use"));
}

}  // namespace tessera
