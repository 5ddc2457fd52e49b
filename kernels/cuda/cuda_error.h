// Errors of the CUDA runtime as statuses.
#ifndef TESSERA_KERNELS_CUDA_CUDA_ERROR_H_
#define TESSERA_KERNELS_CUDA_CUDA_ERROR_H_

#include <cuda_runtime.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::cuda {

// OK, or INTERNAL: "GPU 0: <action> failed: <what the runtime says>".
absl::Status ToStatus(cudaError_t error, int gpu, std::string_view action);

// OK when the program can use GPU `index`, else INVALID_ARGUMENT with a sentence that says what is
// missing: a driver, a newer one, a GPU, a newer one.
absl::Status CheckGpu(int index);

// The GPUs of the machine, in words: "8 GPUs (NVIDIA H100 80GB HBM3)". Errors: as CheckGpu(0).
absl::StatusOr<std::string> DescribeGpus();

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUDA_ERROR_H_
