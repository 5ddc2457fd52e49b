#include "kernels/cuda/pinned_ring.h"

#include "kernels/core/status_macros.h"

namespace tessera::cuda {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

cudaError_t PinnedRing::Create(cudaStream_t stream) {
  stream_ = stream;
  for (PinnedSegment& segment : segments_) {
    const cudaError_t error = segment.Create();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t PinnedRing::NextSegment() {
  const cudaError_t error = segments_[segment_].MarkCopies(stream_);
  if (error != cudaSuccess) return error;
  segment_ = (segment_ + 1) % segments_.size();
  used_ = 0;
  return segments_[segment_].Wait();
}

cudaError_t PinnedRing::Copy(void* device, size_t bytes, absl::FunctionRef<void(char*)> write) {
  TESSERA_CHECK(bytes <= kSegmentBytes);
  if (bytes > kSegmentBytes - used_) {
    const cudaError_t error = NextSegment();
    if (error != cudaSuccess) return error;
  }
  char* memory = segments_[segment_].memory() + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  write(memory);
  return cudaMemcpyAsync(device, memory, bytes, cudaMemcpyHostToDevice, stream_);
}

}  // namespace tessera::cuda
