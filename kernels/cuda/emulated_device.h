// An emulated GPU that exchanges with others as devices of the CPU do.
#ifndef TESSERA_KERNELS_CUDA_EMULATED_DEVICE_H_
#define TESSERA_KERNELS_CUDA_EMULATED_DEVICE_H_

#include <functional>
#include <memory>

#include "kernels/core/host_queue.h"
#include "kernels/cuda/cuda_device.h"

namespace tessera::cuda {

// The memory of emulated GPUs is this process's own, so the transports between CPU devices reach
// it. What they run waits for the stream, on the calling thread, and the emulator does not check
// its accesses.
class EmulatedDevice final : public CudaDevice, private HostQueue {
 public:
  // As CudaDevice::Create.
  static absl::StatusOr<std::unique_ptr<CudaDevice>> Create(int index);

  HostQueue* host_queue() override { return this; }

 private:
  explicit EmulatedDevice(int index) : CudaDevice(index) {}
  void Run(std::function<absl::Status()> work) override;
  void* Access(void* device) override { return device; }
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_EMULATED_DEVICE_H_
