// Names the table of this instruction set: TESSERA_CPU_TABLE is PortableKernels and so on.
#include "kernels/cpu/isa/table.h"

namespace tessera::cpu {

const Kernels& TESSERA_CPU_TABLE() { return TESSERA_CPU_ISA::kTable; }

}  // namespace tessera::cpu
