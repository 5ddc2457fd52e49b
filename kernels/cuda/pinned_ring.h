// Page-locked host memory through which bytes travel to a GPU.
#ifndef TESSERA_KERNELS_CUDA_PINNED_RING_H_
#define TESSERA_KERNELS_CUDA_PINNED_RING_H_

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/pinned_segment.h"

namespace tessera::cuda {

// Segments that are filled in turn; one is used again when the copies out of it are done. Used by
// one thread at a time, with the stream's device current. The copies must be done when it ends.
class PinnedRing {
 public:
  static constexpr size_t kSegmentBytes = PinnedSegment::kBytes;

  cudaError_t Create(cudaStream_t stream);
  // Enqueues a copy of `bytes` bytes, at most kSegmentBytes, which write(memory) puts into pinned
  // memory aligned to 64 bytes. Waits when the ring is full of unfinished copies.
  cudaError_t Copy(void* device, size_t bytes, absl::FunctionRef<void(char*)> write);

 private:
  cudaError_t NextSegment();

  cudaStream_t stream_ = nullptr;
  std::array<PinnedSegment, 8> segments_;
  size_t segment_ = 0;
  size_t used_ = 0;  // bytes of the current segment
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_PINNED_RING_H_
