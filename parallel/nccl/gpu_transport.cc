#include "parallel/nccl/gpu_transport.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<GpuTransport>> CreateGpuTransport(std::string_view backend) {
#ifdef TESSERA_CUDA_EMULATED
  if (backend == "cuda-emulated") return CreateEmulatedGpuTransport();
#endif
#ifdef TESSERA_CUDA
  if (backend == "cuda") return CreateCudaGpuTransport();
#endif
  static_cast<void>(backend);
  return nullptr;
}

}  // namespace tessera
