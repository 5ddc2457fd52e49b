// Ends what waits too long for a client that does not read.
#ifndef TESSERA_SERVER_STALL_WATCH_H_
#define TESSERA_SERVER_STALL_WATCH_H_

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera {

// A call that may wait for its client.
class StallingCall {
 public:
  virtual ~StallingCall() = default;
  // Called every now and then until the call is destroyed; `limit` is how long a client may take.
  virtual void LookForStall(absl::Time now, absl::Duration limit) = 0;
};

// Thread-safe. A thread looks at all calls some times per limit, and sleeps while there are none.
class StallWatch {
 public:
  explicit StallWatch(absl::Duration limit);
  ~StallWatch();
  StallWatch(const StallWatch&) = delete;
  StallWatch& operator=(const StallWatch&) = delete;

  void Add(std::weak_ptr<StallingCall> call);

 private:
  void Run();
  // Those that still exist.
  std::vector<std::shared_ptr<StallingCall>> Calls();

  const absl::Duration limit_;
  absl::Mutex mutex_;
  std::vector<std::weak_ptr<StallingCall>> calls_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: everything it uses exists
};

}  // namespace tessera

#endif  // TESSERA_SERVER_STALL_WATCH_H_
