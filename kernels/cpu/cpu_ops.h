// The CPU backend: float32 activations, weights in packed panels of bfloat16 or float32, vector
// instructions chosen when the program runs, threads of its own.
#ifndef TESSERA_KERNELS_CPU_CPU_OPS_H_
#define TESSERA_KERNELS_CPU_CPU_OPS_H_

#include <memory>

#include "kernels/cpu/isa/isa.h"
#include "kernels/ops.h"

namespace tessera {

// Work runs at once, on the calling thread and options.num_threads - 1 others, with the fastest
// instruction set of this machine.
std::unique_ptr<Ops> CreateCpuOps(const OpsOptions& options);

// The same with a given instruction set, which this machine must support (CHECK failure).
std::unique_ptr<Ops> CreateCpuOps(const OpsOptions& options, cpu::Isa isa);

}  // namespace tessera

#endif  // TESSERA_KERNELS_CPU_CPU_OPS_H_
