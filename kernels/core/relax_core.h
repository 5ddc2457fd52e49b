// What a polling thread does between two looks.
#ifndef TESSERA_KERNELS_CORE_RELAX_CORE_H_
#define TESSERA_KERNELS_CORE_RELAX_CORE_H_

namespace tessera {

// Leaves the core's resources to its twin for some cycles; the thread keeps the core.
inline void RelaxCore() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_RELAX_CORE_H_
