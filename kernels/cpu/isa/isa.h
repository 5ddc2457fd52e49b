// Instruction sets of the CPU backend, chosen when the program runs.
#ifndef TESSERA_KERNELS_CPU_ISA_ISA_H_
#define TESSERA_KERNELS_CPU_ISA_ISA_H_

#include <string_view>
#include <vector>

#include "kernels/cpu/isa/kernels.h"

namespace tessera::cpu {

// kAvx512Bf16 adds products of bfloat16 vectors to kAvx512, kAmx products of bfloat16 tiles.
enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };

std::string_view IsaName(Isa isa);
// What this machine can execute, from the slowest to the fastest. Asks the operating system to let
// this process use tiles.
std::vector<Isa> SupportedIsas();
// `isa` must be supported.
const Kernels& KernelsOf(Isa isa);

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_ISA_ISA_H_
