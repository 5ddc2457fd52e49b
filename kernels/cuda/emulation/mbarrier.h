// Barriers in shared memory (mbarrier): arrivals and bytes of a phase.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_MBARRIER_H_
#define TESSERA_KERNELS_CUDA_EMULATION_MBARRIER_H_

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

// The initialised barrier at an offset. `proxied`: when the async proxy is to use it.
MBarrier& FindMBarrier(Block& block, uint32_t offset, const uint32_t* clock,
                       const uint32_t* proxied);
void MaybeCompletePhase(Block& block, MBarrier& barrier);
// Fails when a plain access touches an initialised barrier.
void CheckNoBarrier(const Block& block, size_t offset, size_t bytes, bool write);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_MBARRIER_H_
