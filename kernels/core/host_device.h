// A device whose memory is the process's own heap and whose queue runs at once, on the calling
// thread. The floor of the ref and cpu backends.
#ifndef TESSERA_KERNELS_CORE_HOST_DEVICE_H_
#define TESSERA_KERNELS_CORE_HOST_DEVICE_H_

#include <cstdint>
#include <functional>

#include "kernels/core/device.h"
#include "kernels/core/host_queue.h"

namespace tessera {

// Bytes this process may still take: the smaller of what the machine has left and what its
// control groups allow. INT64_MAX when neither can be read.
int64_t AvailableHostMemory();

// Used by one thread, but for allocating and freeing, which any thread may do. Allocations are
// aligned to at least 64 bytes; those of 4 MiB and more are separate mappings, aligned to 2 MiB and
// advised to use huge pages. Pages are taken lazily, so the limit is kept by counting what all
// HostDevices of the process hold.
class HostDevice : public Device, private HostQueue {
 public:
  // `memory_limit`: bytes all HostDevices together may hold; 0 = what was available at first use.
  explicit HostDevice(int64_t memory_limit = 0) : memory_limit_(memory_limit) {}

  void Upload(void* device, const void* host, size_t bytes) override;
  void Download(void* host, const void* device, size_t bytes) override;
  uint64_t Record() override { return 0; }
  absl::Status Wait(uint64_t /*mark*/, absl::Duration /*limit*/) override { return status_; }
  HostQueue* host_queue() override { return this; }
  // An operation has failed, unless `status` is OK: nothing runs from now on.
  void Fail(const absl::Status& status) { status_.Update(status); }

 protected:
  absl::StatusOr<void*> AllocateBytes(size_t bytes) override;
  void FreeBytes(void* device, size_t bytes) override;

 private:
  void Run(std::function<absl::Status()> work) override;  // before returning
  void* Access(void* device) override { return device; }

  const int64_t memory_limit_;
  absl::Status status_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_HOST_DEVICE_H_
