// Page-locked pieces of host memory into which a GPU writes.
#ifndef TESSERA_KERNELS_CUDA_PINNED_POOL_H_
#define TESSERA_KERNELS_CUDA_PINNED_POOL_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <map>
#include <vector>

namespace tessera::cuda {

// Keeps what was given back. Not thread-safe.
class PinnedPool {
 public:
  PinnedPool() = default;
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;
  ~PinnedPool();

  cudaError_t Take(size_t bytes, char** memory);
  void GiveBack(char* memory, size_t bytes);

 private:
  std::map<size_t, std::vector<char*>> free_;  // by size
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_PINNED_POOL_H_
