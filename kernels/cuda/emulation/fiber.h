// Stacks and switches of fibers, nothing else.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_FIBER_H_
#define TESSERA_KERNELS_CUDA_EMULATION_FIBER_H_

#include <cstddef>

namespace tessera::simt::emulation {

// A kernel's registers and local arrays are on it; deeper than any kernel here needs.
inline constexpr size_t kFiberStackBytes = size_t{64} << 10;

// The top of stack `index`, a multiple of 64. Stacks are kept; below each is a page that faults.
unsigned char* FiberStackTop(size_t index);

// A context that begins in `main` on the stack below `top`. `main` never returns.
void* NewContext(unsigned char* top, void (*main)());
// Saves the running context in *save and goes on with `load`.
void SwitchContext(void** save, void* load);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_FIBER_H_
