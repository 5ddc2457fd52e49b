// Page-locked host memory through which several threads write to a GPU at the same time.
#ifndef TESSERA_KERNELS_CUDA_WEIGHT_UPLOADS_H_
#define TESSERA_KERNELS_CUDA_WEIGHT_UPLOADS_H_

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <deque>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/pinned_segment.h"

namespace tessera::cuda {

// A few segments that travel one by one: while some are copied, others are filled, each by its own
// thread, so that reading a file, converting and copying overlap. A thread that finds all of them
// in use waits. Thread-safe after Create; callers have the stream's device current.
// The copies must be done when it ends.
class WeightUploads {
 public:
  static constexpr size_t kSegmentBytes = PinnedSegment::kBytes;
  static constexpr size_t kNumSegments = 16;  // 32 MiB stay locked, however large the weights

  cudaError_t Create(cudaStream_t stream);

  // Writes `bytes` bytes at `device` and waits until they are there. write(memory, begin, n) puts
  // bytes [begin, begin + n) into pinned memory aligned to 64 bytes, piece after piece in order;
  // begin and n are multiples of `unit`, at most kSegmentBytes.
  cudaError_t Write(void* device, size_t bytes, size_t unit,
                    absl::FunctionRef<void(char*, size_t, size_t)> write);

 private:
  // The one that was given back first: its copy is the likeliest to be done.
  PinnedSegment* Take() ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveBack(PinnedSegment* segment) ABSL_LOCKS_EXCLUDED(mutex_);
  cudaError_t CopyPiece(PinnedSegment& segment, char* device, size_t bytes,
                        absl::FunctionRef<void(char*)> write);

  cudaStream_t stream_ = nullptr;
  std::array<PinnedSegment, kNumSegments> segments_;
  absl::Mutex mutex_;
  std::deque<PinnedSegment*> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_WEIGHT_UPLOADS_H_
