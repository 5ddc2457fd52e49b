// Factories of the CUDA backend, on real and on emulated GPUs: the same source, compiled twice.
#ifndef TESSERA_KERNELS_CUDA_CUDA_OPS_H_
#define TESSERA_KERNELS_CUDA_CUDA_OPS_H_

#include <memory>

#include "kernels/ops.h"

namespace tessera {

// INVALID_ARGUMENT, with a sentence that says what is missing, when there is no such GPU.
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const OpsOptions& options);
// OK when there is a GPU that CreateCudaOps can use.
absl::Status CheckCuda();
absl::StatusOr<std::unique_ptr<Ops>> CreateEmulatedCudaOps(const OpsOptions& options);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CUDA_CUDA_OPS_H_
