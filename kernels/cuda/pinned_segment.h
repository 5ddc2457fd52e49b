// Page-locked host memory with the mark that says when it may be filled again.
#ifndef TESSERA_KERNELS_CUDA_PINNED_SEGMENT_H_
#define TESSERA_KERNELS_CUDA_PINNED_SEGMENT_H_

#include <cuda_runtime.h>

#include <cstddef>

namespace tessera::cuda {

// Used by one thread at a time, with the device of its copies current.
class PinnedSegment {
 public:
  static constexpr size_t kBytes = size_t{2} << 20;

  PinnedSegment() = default;
  PinnedSegment(const PinnedSegment&) = delete;
  PinnedSegment& operator=(const PinnedSegment&) = delete;
  // The copies must be done.
  ~PinnedSegment();

  cudaError_t Create();
  char* memory() const { return memory_; }  // kBytes
  // Marks the copies out of the segment that the stream has been given.
  cudaError_t MarkCopies(cudaStream_t stream) { return cudaEventRecord(copied_, stream); }
  // Until the marked copies are done; at once when none were marked.
  cudaError_t Wait() { return cudaEventSynchronize(copied_); }

 private:
  char* memory_ = nullptr;
  cudaEvent_t copied_ = nullptr;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_PINNED_SEGMENT_H_
