// Wakes threads that wait for something that is not a lock.
#ifndef TESSERA_PARALLEL_CARRIER_BELL_H_
#define TESSERA_PARALLEL_CARRIER_BELL_H_

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace tessera {

// Any thread. Ringing costs one atomic operation while nobody sleeps.
class Bell {
 public:
  // After a change that somebody may wait for.
  void Ring();
  // Sleeps until ready() or the deadline; false at the deadline. `ready` is called by this thread,
  // after every ring.
  bool Wait(absl::FunctionRef<bool()> ready, absl::Time deadline);

 private:
  std::atomic<uint32_t> rings_{0};
  std::atomic<int> sleepers_{0};
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CARRIER_BELL_H_
