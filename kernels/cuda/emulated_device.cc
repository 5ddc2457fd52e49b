#include "kernels/cuda/emulated_device.h"

#include "kernels/core/status_macros.h"
#include "kernels/cuda/cuda_error.h"

namespace tessera::cuda {

absl::StatusOr<std::unique_ptr<CudaDevice>> EmulatedDevice::Create(int index) {
  RETURN_IF_ERROR(CheckGpu(index));
  std::unique_ptr<EmulatedDevice> device(new EmulatedDevice(index));
  RETURN_IF_ERROR(device->Initialize());
  return device;
}

void EmulatedDevice::Run(std::function<absl::Status()> work) {
  absl::Status status = Synchronize();
  if (status.ok()) status = work();
  Fail(status);
}

}  // namespace tessera::cuda
