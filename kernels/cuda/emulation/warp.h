// Warp-wide operations: lanes arrive, the last one executes the operation for all of them.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_WARP_H_
#define TESSERA_KERNELS_CUDA_EMULATION_WARP_H_

#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

struct WarpCall {
  uint32_t mask;  // the lanes that take part
  const char* what;
  CollectiveRun run;
  int64_t extra = 0;  // must be the same for all of them
  Site site{"", 0};
};
// The running thread takes part with `operand`; returns when the operation has been executed.
void Collect(const WarpCall& call, void* operand);
// A lane has ended: operations that waited for it alone go on.
void LeaveWarp(Thread* t);

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_WARP_H_
