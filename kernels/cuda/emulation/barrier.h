// Barriers of a block and of a cluster.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_BARRIER_H_
#define TESSERA_KERNELS_CUDA_EMULATION_BARRIER_H_

#include <string>

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

void NamedBarrier(int id, int threads, bool wait);
void ArriveAtCluster();
void WaitForCluster();
// The thread has ended: what waited for it alone goes on.
void LeaveBarriers(Thread* t);
// For a report of a deadlock: what is incomplete, each part begins with "; ".
std::string OpenBarriers(const Block& block);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_BARRIER_H_
