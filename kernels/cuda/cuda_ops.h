// Factories of the CUDA backend, on real and on emulated GPUs: the same source, compiled twice.
#ifndef TESSERA_KERNELS_CUDA_CUDA_OPS_H_
#define TESSERA_KERNELS_CUDA_CUDA_OPS_H_

#include <memory>
#include <string>

#include "kernels/ops.h"

namespace tessera {

// INVALID_ARGUMENT, with a sentence that says what is missing, when there is no such GPU.
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const OpsOptions& options);
// The GPUs of this machine, in words, when CreateCudaOps can use the first one; else why it cannot.
absl::StatusOr<std::string> DescribeCuda();
absl::StatusOr<std::unique_ptr<Ops>> CreateEmulatedCudaOps(const OpsOptions& options);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CUDA_CUDA_OPS_H_
