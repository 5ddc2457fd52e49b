// A device whose memory is the process's own heap and whose queue runs at once, on the calling
// thread. The floor of the ref and cpu backends.
#ifndef TESSERA_KERNELS_CORE_HOST_DEVICE_H_
#define TESSERA_KERNELS_CORE_HOST_DEVICE_H_

#include <cstdint>
#include <functional>

#include "kernels/core/device.h"

namespace tessera {

// Bytes this process may still take: the smaller of what the machine has left and what its memory
// control group (v2) allows. INT64_MAX when neither can be read.
int64_t AvailableHostMemory();

// Used by one thread, but for allocating and freeing, which any thread may do. Allocations are
// aligned to at least 64 bytes; those of 4 MiB and more are separate mappings, aligned to 2 MiB and
// advised to use huge pages. Pages are taken lazily, so the limit is kept by counting what all
// HostDevices of the process hold.
class HostDevice : public Device {
 public:
  // `memory_limit`: bytes all HostDevices together may hold; 0 = what was available at first use.
  explicit HostDevice(int64_t memory_limit = 0) : memory_limit_(memory_limit) {}

  void Upload(void* device, const void* host, size_t bytes) override;
  void Download(void* host, const void* device, size_t bytes) override;
  uint64_t Record() override { return 0; }
  absl::Status Wait(uint64_t /*mark*/, absl::Duration /*limit*/) override { return status_; }
  // Runs `work` before returning; nothing runs after the first failure.
  void Run(std::function<absl::Status()> work) override;
  void* Access(void* device) override { return device; }
  using Device::Access;

 protected:
  absl::StatusOr<void*> AllocateBytes(size_t bytes) override;
  void FreeBytes(void* device, size_t bytes) override;

 private:
  const int64_t memory_limit_;
  absl::Status status_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_HOST_DEVICE_H_
