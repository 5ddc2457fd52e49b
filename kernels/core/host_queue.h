// Host code in a device's queue: what transports between CPU devices need, and nobody else.
// Included by devices and by parallel/host_communicator only (tests/include_direction.py).
#ifndef TESSERA_KERNELS_CORE_HOST_QUEUE_H_
#define TESSERA_KERNELS_CORE_HOST_QUEUE_H_

#include <functional>

#include "absl/status/status.h"

namespace tessera {

class HostQueue {
 public:
  virtual ~HostQueue() = default;

  // Enqueues a function that moves device memory. It runs wherever the device executes its queue,
  // in the order of the queue; nothing runs after the first failure, which Synchronize() returns.
  virtual void Run(std::function<absl::Status()> work) = 0;
  // The host address of a device address; inside a function of Run only.
  virtual void* Access(void* device) = 0;
  const void* Access(const void* device) { return Access(const_cast<void*>(device)); }
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_HOST_QUEUE_H_
