// SampleArgs as the launcher of the sampler takes them.
#ifndef TESSERA_KERNELS_CUDA_CUDA_SAMPLE_H_
#define TESSERA_KERNELS_CUDA_CUDA_SAMPLE_H_

#include "kernels/cuda/kernels/sample.h"
#include "kernels/ops.h"

namespace tessera::cuda {

// One block per row. `args` has passed Check (kernels/op_checks.h).
SampleLaunch SampleLaunchOf(const SampleArgs& args);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUDA_SAMPLE_H_
