// The CPU backend: float32 activations, weights in packed panels of bfloat16 or float32, vector
// instructions chosen when the program runs, threads of its own.
#ifndef TESSERA_KERNELS_CPU_CPU_OPS_H_
#define TESSERA_KERNELS_CPU_CPU_OPS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace tessera {

// Work runs at once, on the calling thread and options.num_threads - 1 others. INVALID_ARGUMENT
// when this machine does not have options.cpu_isa.
absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const OpsOptions& options);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CPU_CPU_OPS_H_
