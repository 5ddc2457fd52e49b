#include "kernels/cpu/isa/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace tessera::cpu {

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

#if defined(__x86_64__)

namespace {

bool CpuHasTiles() {
  constexpr unsigned kAmxBf16 = 1U << 22;
  constexpr unsigned kAmxTile = 1U << 24;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0;
}

// Tiles enlarge the state that the kernel saves for a thread, so Linux wants to be asked, once per
// process.
bool MayUseTiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  static const bool granted =
      CpuHasTiles() && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace

// __builtin_cpu_supports also asks whether the operating system saves the registers.
std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas{Isa::kPortable};
  if (__builtin_cpu_supports("avx2") == 0 || __builtin_cpu_supports("fma") == 0) return isas;
  isas.push_back(Isa::kAvx2);
  const bool avx512 =
      __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  if (!avx512) return isas;
  isas.push_back(Isa::kAvx512);
  if (__builtin_cpu_supports("avx512bf16") == 0) return isas;
  isas.push_back(Isa::kAvx512Bf16);
  if (MayUseTiles()) isas.push_back(Isa::kAmx);
  return isas;
}

const Kernels& KernelsOf(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return AmxKernels();
    case Isa::kAvx512Bf16:
      return Avx512Bf16Kernels();
    case Isa::kAvx512:
      return Avx512Kernels();
    case Isa::kAvx2:
      return Avx2Kernels();
    case Isa::kPortable:
      break;
  }
  return PortableKernels();
}

#else

std::vector<Isa> SupportedIsas() { return {Isa::kPortable}; }
const Kernels& KernelsOf(Isa /*isa*/) { return PortableKernels(); }

#endif

}  // namespace tessera::cpu
