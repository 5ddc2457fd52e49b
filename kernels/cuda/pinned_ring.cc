#include "kernels/cuda/pinned_ring.h"

#include "kernels/core/status_macros.h"

namespace tessera::cuda {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

PinnedRing::~PinnedRing() {
  for (const Segment& segment : segments_) {
    if (segment.memory != nullptr) cudaFreeHost(segment.memory);
    if (segment.copied != nullptr) cudaEventDestroy(segment.copied);
  }
}

cudaError_t PinnedRing::Create(cudaStream_t stream) {
  stream_ = stream;
  for (Segment& segment : segments_) {
    void* memory = nullptr;
    cudaError_t error = cudaMallocHost(&memory, kSegmentBytes);
    if (error != cudaSuccess) return error;
    segment.memory = static_cast<char*>(memory);
    error = cudaEventCreateWithFlags(&segment.copied, cudaEventDisableTiming);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t PinnedRing::NextSegment() {
  const cudaError_t error = cudaEventRecord(segments_[segment_].copied, stream_);
  if (error != cudaSuccess) return error;
  segment_ = (segment_ + 1) % segments_.size();
  used_ = 0;
  return cudaEventSynchronize(segments_[segment_].copied);  // at once when never recorded
}

cudaError_t PinnedRing::Copy(void* device, size_t bytes, absl::FunctionRef<void(char*)> write) {
  TESSERA_CHECK(bytes <= kSegmentBytes);
  if (bytes > kSegmentBytes - used_) {
    const cudaError_t error = NextSegment();
    if (error != cudaSuccess) return error;
  }
  char* memory = segments_[segment_].memory + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  write(memory);
  return cudaMemcpyAsync(device, memory, bytes, cudaMemcpyHostToDevice, stream_);
}

}  // namespace tessera::cuda
