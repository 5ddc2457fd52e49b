// Instruction sets of the CPU backend, chosen when the program runs.
#ifndef TESSERA_KERNELS_CPU_ISA_ISA_H_
#define TESSERA_KERNELS_CPU_ISA_ISA_H_

#include <string_view>
#include <vector>

#include "kernels/cpu/isa/kernels.h"

namespace tessera::cpu {

enum class Isa : uint8_t { kPortable, kAvx2, kAvx512 };

std::string_view IsaName(Isa isa);
// What this machine can execute, from the slowest to the fastest.
std::vector<Isa> SupportedIsas();
// `isa` must be supported.
const Kernels& KernelsOf(Isa isa);

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_ISA_ISA_H_
