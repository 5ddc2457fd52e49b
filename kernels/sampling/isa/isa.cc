#include "kernels/sampling/isa/isa.h"

namespace tessera::sampling {

std::vector<const Loops*> SupportedLoops() {
  std::vector<const Loops*> loops{&PortableLoops()};
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks whether the operating system saves the registers.
  if (__builtin_cpu_supports("avx2") == 0 || __builtin_cpu_supports("fma") == 0) return loops;
  loops.push_back(&Avx2Loops());
  if (__builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0) {
    loops.push_back(&Avx512Loops());
  }
#endif
  return loops;
}

const Loops& FastestLoops() {
  static const Loops& fastest = *SupportedLoops().back();
  return fastest;
}

}  // namespace tessera::sampling
