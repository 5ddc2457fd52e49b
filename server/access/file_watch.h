// Files that are read again when they change, without a restart.
#ifndef TESSERA_SERVER_ACCESS_FILE_WATCH_H_
#define TESSERA_SERVER_ACCESS_FILE_WATCH_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// Looks at the files on a thread of its own: at what the paths lead to, so that files that are
// written, renamed or reached by other symbolic links all count.
class FileWatch {
 public:
  // `reload` brings what the files hold into use and runs on the thread. While it fails, what was
  // in use before stays, and it is tried again at every look; files that belong together may
  // change one after the other, so an error is logged when it comes twice in a row.
  FileWatch(std::vector<std::string> paths, std::function<absl::Status()> reload,
            absl::Duration interval = absl::Seconds(1));
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Reads soon, changed or not. Any thread.
  void ReadNow();

 private:
  void Run();
  bool Sleep();
  std::string Signature() const;
  void Reload();

  const std::vector<std::string> paths_;
  const std::function<absl::Status()> reload_;
  const absl::Duration interval_;
  std::string seen_;
  bool failed_ = false;     // at the last look
  std::string last_error_;  // that was logged
  absl::Mutex mutex_;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_FILE_WATCH_H_
