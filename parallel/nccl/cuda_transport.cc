#include "kernels/core/status_macros.h"
#include "parallel/nccl/nccl_transport.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<GpuTransport>> CreateCudaGpuTransport() {
  ASSIGN_OR_RETURN(const cuda::NcclLibrary library, cuda::LoadNccl());
  return std::make_unique<cuda::NcclTransport>(library, cuda::NcclOptions());
}

}  // namespace tessera
