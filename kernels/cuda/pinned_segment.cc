#include "kernels/cuda/pinned_segment.h"

namespace tessera::cuda {

PinnedSegment::~PinnedSegment() {
  if (memory_ != nullptr) cudaFreeHost(memory_);
  if (copied_ != nullptr) cudaEventDestroy(copied_);
}

cudaError_t PinnedSegment::Create() {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocHost(&memory, kBytes);
  if (error != cudaSuccess) return error;
  memory_ = static_cast<char*>(memory);
  return cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming);
}

}  // namespace tessera::cuda
