// Device memory that a launcher borrows for the time of its kernels.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_WORKSPACE_H_
#define TESSERA_KERNELS_CUDA_KERNELS_WORKSPACE_H_

#include <cstddef>
#include <cstdint>

namespace tessera::cuda {

// Kernels of one stream follow each other, so they may share one workspace.
struct Workspace {
  // What blocks hand to each other: written before it is read, so its old contents do not matter.
  void* data = nullptr;  // aligned to 16 bytes
  size_t bytes = 0;
  // kNumCounters counters of blocks that have arrived. Zeros at first; every kernel leaves zeros.
  uint32_t* counters = nullptr;

  static constexpr int kNumCounters = 1024;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_WORKSPACE_H_
