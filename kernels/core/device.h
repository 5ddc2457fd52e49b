// A device: memory plus one ordered queue of work. Everything above kernels/ sees device memory
// only as addresses that it passes back; the host never reads or writes through them.
#ifndef TESSERA_KERNELS_CORE_DEVICE_H_
#define TESSERA_KERNELS_CORE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/tensor.h"

namespace tessera {

class DeviceBuffer;
class HostQueue;

// Memory that a device has of its own, in bytes.
struct DeviceMemory {
  std::string device;  // for messages: "GPU 0 (NVIDIA H100 80GB HBM3)"
  int64_t free = 0;    // of nobody, this program and others
  int64_t total = 0;
};

// Driven by one thread (the rank's worker). Work may run at once (cpu, ref) or later (queued
// devices); either way it runs in the order in which it was enqueued.
class Device {
 public:
  virtual ~Device() = default;
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Zero-filled and aligned to 64 bytes. RESOURCE_EXHAUSTED when there is no room; the message
  // names `what` and the size. A buffer must not outlive its device and is freed after queued work.
  absl::StatusOr<DeviceBuffer> Allocate(size_t bytes, std::string_view what);

  // Host to device, in queue order. `host` is copied before the call returns.
  virtual void Upload(void* device, const void* host, size_t bytes) = 0;
  // Device to host, in queue order. `host` may be read once a Wait for it has returned OK.
  virtual void Download(void* host, const void* device, size_t bytes) = 0;
  // A mark behind everything that has been enqueued so far.
  virtual uint64_t Record() = 0;
  // Waits for the work before the mark, DEADLINE_EXCEEDED when it takes longer. A failure is
  // sticky: every later call returns it again. Any thread.
  virtual absl::Status Wait(uint64_t mark, absl::Duration limit) = 0;
  // Time so far in which the device had ended all it was given and got more later. Any thread.
  virtual absl::Duration idle_time() const { return absl::ZeroDuration(); }
  // Waits for all enqueued work.
  absl::Status Synchronize() { return Wait(Record(), absl::InfiniteDuration()); }

  // As it is now; nothing for devices that use the host's memory, or that have failed. Any thread.
  virtual std::optional<DeviceMemory> memory() const { return std::nullopt; }

  // For transports of CPU devices; null where the host cannot reach device memory.
  virtual HostQueue* host_queue() { return nullptr; }

 protected:
  friend class DeviceBuffer;
  virtual absl::StatusOr<void*> AllocateBytes(size_t bytes) = 0;
  virtual void FreeBytes(void* device, size_t bytes) = 0;
};

// Owns one allocation of a device. Move-only.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Device* device, void* data, size_t bytes)
      : device_(device), data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) device_->FreeBytes(data_, bytes_);
  }

  size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  // A contiguous tensor inside the buffer; CHECKs that it fits.
  TensorView View(DType dtype, std::initializer_list<int64_t> dims, size_t byte_offset = 0) const;

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_DEVICE_H_
