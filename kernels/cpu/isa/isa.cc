#include "kernels/cpu/isa/isa.h"

namespace tessera::cpu {

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

#if defined(__x86_64__)

// __builtin_cpu_supports also asks whether the operating system saves the registers.
std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas{Isa::kPortable};
  if (__builtin_cpu_supports("avx2") == 0 || __builtin_cpu_supports("fma") == 0) return isas;
  isas.push_back(Isa::kAvx2);
  const bool avx512 =
      __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  if (avx512) isas.push_back(Isa::kAvx512);
  return isas;
}

const Kernels& KernelsOf(Isa isa) {
  if (isa == Isa::kAvx512) return Avx512Kernels();
  return isa == Isa::kAvx2 ? Avx2Kernels() : PortableKernels();
}

#else

std::vector<Isa> SupportedIsas() { return {Isa::kPortable}; }
const Kernels& KernelsOf(Isa /*isa*/) { return PortableKernels(); }

#endif

}  // namespace tessera::cpu
