// Fibers: who runs when, and what becomes of the launch in the end.
#ifndef TESSERA_KERNELS_CUDA_EMULATION_SCHEDULER_H_
#define TESSERA_KERNELS_CUDA_EMULATION_SCHEDULER_H_

#include "kernels/cuda/emulation/fiber.h"
#include "kernels/cuda/emulation/machine.h"

namespace tessera::simt::emulation {

// Of the running fiber.
void WaitFor(const char* what, Site site = {"", 0});  // until someone calls MakeRunnable
void YieldTurn();                                     // stays runnable
// A turn that only looked whether something has changed; too many of them in a row are a deadlock.
void YieldIdle(const char* what);
[[noreturn]] void LeaveForGood();  // the machine's finding says why

void MakeRunnable(Thread* t);
// The running thread's next clock: what follows is not ordered before what came until now.
void Tick(Thread* t);

// Whether it lies in the stack of the thread's fiber.
inline bool OnOwnStack(const Thread& t, const void* pointer) {
  return static_cast<size_t>(static_cast<const unsigned char*>(pointer) - t.stack) <
         kFiberStackBytes;
}

}  // namespace tessera::simt::emulation

#endif  // TESSERA_KERNELS_CUDA_EMULATION_SCHEDULER_H_
