// Random kernels: every thread of a block executes a list of steps.
#ifndef TESSERA_TESTS_KERNELS_CUDA_FUZZ_H_
#define TESSERA_TESTS_KERNELS_CUDA_FUZZ_H_

#include "kernels/cuda/simt/launch.h"
#include "kernels/cuda/simt/ptx.h"

namespace tessera::cuda {

enum class StepKind : int {
  kStore,     // thread t stores cell (t + shift) % cells
  kLoad,      // thread t loads it
  kBarrier,   // of the block
  kSyncWarp,  // of each warp
  kAtomic,    // thread t adds to it
};
struct Step {
  StepKind kind;
  int shift;
};
inline constexpr int kMaxSteps = 16;
struct StepList {
  Step steps[kMaxSteps];
  int count;
};
inline constexpr int kFuzzThreads = 64;  // and as many cells

// The cells are in shared memory, or, when given, in global memory.
cudaError_t RunSteps(cudaStream_t stream, const StepList& list, uint32_t* cells);

}  // namespace tessera::cuda

#endif  // TESSERA_TESTS_KERNELS_CUDA_FUZZ_H_
