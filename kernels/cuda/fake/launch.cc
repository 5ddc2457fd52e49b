#include "kernels/cuda/simt/launch.h"

#include <cstring>
#include <memory>

#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt {

cudaError_t EnqueueKernel(const char* name, const LaunchShape& shape,
                          void (*call)(const void* parameters), const void* parameters,
                          size_t bytes) {
  emulation::Shape s;
  s.grid = shape.grid;
  s.block = shape.block;
  s.cluster = shape.cluster;
  s.shared_bytes = shape.shared_bytes;
  s.dependent = shape.dependent;
  const std::string refusal = emulation::Refusal(s);
  if (!refusal.empty()) {
    return fake::Failed(cudaErrorInvalidConfiguration, std::string(name) + ": " + refusal);
  }
  struct alignas(64) Line {
    char bytes[64];
  };
  std::shared_ptr<Line[]> copy(new Line[bytes / sizeof(Line) + 1]);
  std::memcpy(static_cast<void*>(copy.get()), parameters, bytes);
  MutexLock lock(&fake::R().mutex);
  CUstream_st* stream = fake::Resolve(shape.stream);
  if (stream->device != fake::CurrentDevice()) {
    return fake::Failed(cudaErrorInvalidResourceHandle,
                        std::string(name) + ": a stream of GPU " + std::to_string(stream->device) +
                            ", but the thread has GPU " + std::to_string(fake::CurrentDevice()));
  }
  return fake::EnqueueLocked(
      stream, {.make = [name, s, call, bytes, copy]() -> fake::Run {
        return [=](const fake::StreamPosition& at) {
          return emulation::Execute(name, s, at, {call, copy.get(), bytes}, fake::RunAnother);
        };
      }});
}

}  // namespace tessera::simt
