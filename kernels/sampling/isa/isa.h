// Instruction sets of the loops over a vocabulary, chosen when the program runs.
#ifndef TESSERA_KERNELS_SAMPLING_ISA_ISA_H_
#define TESSERA_KERNELS_SAMPLING_ISA_ISA_H_

#include <vector>

#include "kernels/sampling/isa/loops.h"

namespace tessera::sampling {

// What this machine can execute, from the slowest to the fastest.
std::vector<const Loops*> SupportedLoops();
const Loops& FastestLoops();

}  // namespace tessera::sampling

#endif  // TESSERA_KERNELS_SAMPLING_ISA_ISA_H_
