// Carries a failure of the control plane to ranks that may not exist yet, or not any more.
#ifndef TESSERA_ENGINE_EXECUTOR_ABORT_RELAY_H_
#define TESSERA_ENGINE_EXECUTOR_ABORT_RELAY_H_

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/executor/rank_group.h"

namespace tessera {

// Any thread.
class AbortRelay {
 public:
  // The first reason wins; it is kept for ranks that attach later.
  void Abort(const absl::Status& reason) {
    absl::MutexLock lock(&mutex_);
    if (reason_.ok()) reason_ = reason;
    if (ranks_ != nullptr) ranks_->Abort(reason_);
  }
  // nullptr: the ranks are about to go away.
  void Attach(RankGroup* ranks) {
    absl::MutexLock lock(&mutex_);
    ranks_ = ranks;
    if (ranks_ != nullptr && !reason_.ok()) ranks_->Abort(reason_);
  }
  absl::Status reason() const {
    absl::MutexLock lock(&mutex_);
    return reason_;
  }

 private:
  mutable absl::Mutex mutex_;
  RankGroup* ranks_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Status reason_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_ABORT_RELAY_H_
