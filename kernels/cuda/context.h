// What every operation of the CUDA backend is launched with.
#ifndef TESSERA_KERNELS_CUDA_CONTEXT_H_
#define TESSERA_KERNELS_CUDA_CONTEXT_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels/workspace.h"

namespace tessera::cuda {

// Device memory for what an operation keeps between its own kernels. Each operation overwrites what
// the one before left there: they share a stream.
class Scratch {
 public:
  explicit Scratch(CudaDevice& device) : device_(device) {}

  // At least `bytes` bytes, aligned to 256, not cleared; null when the GPU has no room, which an
  // operation reports as cudaErrorMemoryAllocation. Grows by waiting for the stream, so the largest
  // shapes come first, unless addresses are kept.
  void* Get(size_t bytes);
  // From now on what has been given out stays valid, also when more is needed: graphs hold it.
  void KeepAddresses() { keeps_ = true; }

 private:
  CudaDevice& device_;
  DeviceBuffer memory_;
  bool keeps_ = false;
  std::vector<DeviceBuffer> outgrown_;  // that graphs may hold
};

class CublasGemm;

struct Context {
  cudaStream_t stream = nullptr;
  int multiprocessors = 0;
  int compute_capability = 0;    // 80, 90, ...
  uint32_t* counters = nullptr;  // Workspace::kNumCounters, zeros between kernels
  Fault* fault = nullptr;
  Scratch* scratch = nullptr;
  CublasGemm* cublas = nullptr;  // for products that it takes; null: none
};

// For a launcher that can use `bytes` bytes. Where the GPU has no room for them, it gets none: it
// takes longer then, with the same results.
Workspace WorkspaceOf(const Context& context, size_t bytes);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CONTEXT_H_
