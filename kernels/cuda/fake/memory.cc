#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt::fake {
namespace {

// Of the bytes that a copy will read when its turn comes.
uint64_t Fingerprint(const void* bytes, size_t n) {
  uint64_t h = n;
  const auto* p = static_cast<const unsigned char*>(bytes);
  for (; n >= 8; p += 8, n -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = (h ^ word) * 0x9e3779b97f4a7c15ULL;
    h ^= h >> 29;
  }
  for (; n > 0; ++p, --n) h = (h ^ *p) * 0x9e3779b97f4a7c15ULL;
  return h;
}

Run CopyToGpu(void* to, const void* from, size_t bytes) {
  const uint64_t before = Fingerprint(from, bytes);
  return [=](const StreamPosition& at, const Ended& ended) {
    ended(Fingerprint(from, bytes) == before
              ? emulation::CopyIn(to, from, bytes, at)
              : "copy to the GPU: the host memory changed before it was read");
  };
}

Run CopyToHost(void* to, const void* from, size_t bytes) {
  constexpr int kNotYet = 0xa5;  // who reads before the copy has been waited for sees it
  std::memset(to, kNotYet, bytes);
  return [=](const StreamPosition& at, const Ended& ended) {
    ended(emulation::CopyOut(to, from, bytes, at));
  };
}

Run CopyWithin(void* to, const void* from, size_t bytes) {
  return [=](const StreamPosition& at, const Ended& ended) {
    ended(emulation::CopyBetween(to, from, bytes, at));
  };
}

}  // namespace
}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract
namespace emulation = tessera::simt::emulation;

TESSERA_CUDA_API_BEGIN
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  {
    tessera::MutexLock lock(&R().mutex);
    const cudaError_t sticky = Sticky(R().gpus[CurrentDevice()]);
    if (sticky != cudaSuccess) return sticky;
  }
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  *pointer = emulation::Allocate(CurrentDevice(), bytes);
  return *pointer == nullptr ? Failed(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const cudaError_t error = cudaDeviceSynchronize();
  tessera::MutexLock lock(&R().mutex);
  if (IsOpen(pointer)) {
    return Failed(cudaErrorInvalidValue, "cudaFree of memory that another process has open");
  }
  BeginDriving();
  const bool freed = emulation::Free(pointer);
  EndDriving();
  return freed ? error : Failed(cudaErrorInvalidValue, "cudaFree of what cudaMalloc never gave");
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  {
    tessera::MutexLock lock(&R().mutex);
    const cudaError_t sticky = Sticky(R().gpus[CurrentDevice()]);
    if (sticky != cudaSuccess) return sticky;
  }
  *total = emulation::GetOptions().memory_bytes;
  *free = *total - emulation::AllocatedBytes(CurrentDevice());
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  constexpr size_t kPage = 4096;
  *pointer = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  return *pointer == nullptr && bytes > 0 ? Failed(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
  const cudaError_t error = cudaMallocHost(pointer, bytes);
  if (error == cudaSuccess && (flags & cudaHostAllocMapped) != 0) emulation::Map(*pointer, bytes);
  return error;
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  if (flags != 0 || !emulation::IsMapped(host, 1)) return Failed(cudaErrorInvalidValue);
  *device = host;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  // Copies may still be under way; CUDA waits for them too.
  const cudaError_t error = cudaDeviceSynchronize();
  emulation::Unmap(pointer);
  std::free(pointer);
  return error;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool to_gpu = emulation::DeviceOf(to) >= 0, from_gpu = emulation::DeviceOf(from) >= 0;
  const cudaMemcpyKind found = to_gpu
                                   ? (from_gpu ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                                   : (from_gpu ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  if (kind != cudaMemcpyDefault && kind != found) {
    return Failed(cudaErrorInvalidValue, "a copy whose addresses are not of the kind that it says");
  }
  if (bytes == 0) return cudaSuccess;
  switch (found) {
    case cudaMemcpyHostToDevice:
      return Enqueue(stream, {.make = [=] { return CopyToGpu(to, from, bytes); }});
    case cudaMemcpyDeviceToHost:
      return Enqueue(stream, {.make = [=] { return CopyToHost(to, from, bytes); }});
    case cudaMemcpyDeviceToDevice:
      return Enqueue(stream, {.make = [=] { return CopyWithin(to, from, bytes); }});
    default:
      return Failed(cudaErrorInvalidValue, "a copy from host to host");
  }
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return Enqueue(stream, {.make = [=]() -> Run {
                   return [=](const StreamPosition& at, const Ended& ended) {
                     ended(emulation::Fill(to, value, bytes, at));
                   };
                 }});
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

TESSERA_CUDA_API_END
