// What lands later: copies by cp.async and TMA, products by wgmma. Both leave NaN in their target
// when they are issued and land at a random moment, at the latest when they are waited for.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_ASYNC_COPY_H_
#define TESSERA_KERNELS_CUDA_EMULATION_ASYNC_COPY_H_

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

// One TMA transfer, at random; there must be one.
void LandTransfer();
// Fails if a thread ends that has not waited for what it, or its warpgroup, has issued.
void CheckNoCopies(const Thread* t);
void CheckNoWgmma(const Thread* t);
// Whether TMA transfers of a cluster, all of whose threads have ended, were never waited for.
bool TransfersInFlight(const Cluster& cluster);
// How 128-byte swizzles permute the addresses of 16-byte units.
inline size_t Swizzle128(size_t address) { return address ^ (address >> 7 & 7) << 4; }

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_ASYNC_COPY_H_
