#include "tests/kernels/cuda/fuzz.h"

namespace tessera::cuda {
namespace {

struct Cells {
  uint32_t cells[kFuzzThreads];
};

SIMT_KERNEL(kFuzzThreads, 1) StepsKernel(StepList list, uint32_t* global) {
  uint32_t* cells = global != nullptr ? global : simt::SharedMemory<Cells>().cells;
  const int thread = static_cast<int>(threadIdx.x);
  cells[thread] = 0;
  __syncthreads();
  uint32_t sum = 0;
  for (int i = 0; i < list.count; ++i) {
    uint32_t* cell = &cells[(thread + list.steps[i].shift) % kFuzzThreads];
    switch (list.steps[i].kind) {
      case StepKind::kStore:
        *cell = sum;
        break;
      case StepKind::kLoad:
        sum += *cell;
        break;
      case StepKind::kBarrier:
        __syncthreads();
        break;
      case StepKind::kSyncWarp:
        __syncwarp();
        break;
      case StepKind::kAtomic:
        sum += simt::ptx::AtomicAddRelaxed(cell, 1);
        break;
    }
  }
  if (sum == 0xffffffffU) __trap();  // keeps the loads
}

}  // namespace

cudaError_t RunSteps(cudaStream_t stream, const StepList& list, uint32_t* cells) {
  const simt::LaunchShape shape{.grid = dim3(1),
                                .block = dim3(kFuzzThreads),
                                .shared_bytes = sizeof(Cells),
                                .stream = stream};
  return SIMT_LAUNCH(shape, StepsKernel, list, cells);
}

}  // namespace tessera::cuda
