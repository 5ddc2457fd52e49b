#include "kernels/cuda/weight_uploads.h"

#include <algorithm>

#include "kernels/core/status_macros.h"

namespace tessera::cuda {

cudaError_t WeightUploads::Create(cudaStream_t stream) {
  stream_ = stream;
  for (PinnedSegment& segment : segments_) {
    const cudaError_t error = segment.Create();
    if (error != cudaSuccess) return error;
    GiveBack(&segment);
  }
  return cudaSuccess;
}

PinnedSegment* WeightUploads::Take() {
  absl::MutexLock lock(&mutex_);
  const auto some = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !free_.empty(); };
  mutex_.Await(absl::Condition(&some));
  PinnedSegment* const segment = free_.front();
  free_.pop_front();
  return segment;
}

void WeightUploads::GiveBack(PinnedSegment* segment) {
  absl::MutexLock lock(&mutex_);
  free_.push_back(segment);
}

cudaError_t WeightUploads::CopyPiece(PinnedSegment& segment, char* device, size_t bytes,
                                     absl::FunctionRef<void(char*)> write) {
  cudaError_t error = segment.Wait();
  if (error != cudaSuccess) return error;
  write(segment.memory());
  error = cudaMemcpyAsync(device, segment.memory(), bytes, cudaMemcpyHostToDevice, stream_);
  return error != cudaSuccess ? error : segment.MarkCopies(stream_);
}

cudaError_t WeightUploads::Write(void* device, size_t bytes, size_t unit,
                                 absl::FunctionRef<void(char*, size_t, size_t)> write) {
  TESSERA_CHECK(unit > 0 && unit <= kSegmentBytes && bytes % unit == 0);
  if (bytes == 0) return cudaSuccess;
  const size_t most = kSegmentBytes / unit * unit;
  for (size_t begin = 0; begin < bytes; begin += most) {
    const size_t size = std::min(most, bytes - begin);
    PinnedSegment* const segment = Take();
    cudaError_t error = CopyPiece(*segment, static_cast<char*>(device) + begin, size,
                                  [&](char* memory) { write(memory, begin, size); });
    // Copies of a stream end in order: the last one's end is the end of all.
    const bool last = begin + size == bytes;
    if (error == cudaSuccess && last) error = segment->Wait();
    GiveBack(segment);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace tessera::cuda
