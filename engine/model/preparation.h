// Work of loading, spread over a few threads.
#ifndef TESSERA_ENGINE_MODEL_PREPARATION_H_
#define TESSERA_ENGINE_MODEL_PREPARATION_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "kernels/core/mutex.h"

namespace tessera {

// Pieces of work begin in the order in which they were added. After a failure none begins any more.
// Used by one thread.
class Preparation {
 public:
  using Piece = std::function<absl::Status()>;

  // With one thread each piece runs in Add, on the calling thread.
  explicit Preparation(int num_threads);
  // Gives up what has not begun.
  ~Preparation();
  Preparation(const Preparation&) = delete;
  Preparation& operator=(const Preparation&) = delete;

  // Waits while as many pieces as there are threads have not begun. Returns a failure that has
  // happened already.
  absl::Status Add(Piece piece) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for all; of several failures that of the piece added first.
  absl::Status Finish() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Numbered {
    int64_t number = 0;
    Piece piece;
  };

  void Work() ABSL_LOCKS_EXCLUDED(mutex_);
  void Note(int64_t number, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::vector<std::thread> threads_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Numbered> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t added_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t at_work_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  int64_t failed_ ABSL_GUARDED_BY(mutex_) = 0;  // number of the piece that failure_ is of
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_PREPARATION_H_
