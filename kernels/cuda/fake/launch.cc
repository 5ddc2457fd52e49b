#include "kernels/cuda/simt/launch.h"

#include <cstring>
#include <memory>
#include <utility>

#include "kernels/cuda/fake/runtime.h"

namespace tessera::simt {

cudaError_t EnqueueKernel(const LaunchShape& shape, const KernelCall& kernel) {
  emulation::Shape s;
  s.grid = shape.grid;
  s.block = shape.block;
  s.cluster = shape.cluster;
  s.shared_bytes = shape.shared_bytes;
  s.dependent = shape.dependent;
  s.together = shape.together;
  const std::string refusal = emulation::Refusal(s, kernel.code);
  if (!refusal.empty()) {
    return fake::Failed(cudaErrorInvalidConfiguration, std::string(kernel.name) + ": " + refusal);
  }
  struct alignas(64) Line {
    char bytes[64];
  };
  std::shared_ptr<Line[]> copy(new Line[kernel.bytes / sizeof(Line) + 1]);
  std::memcpy(static_cast<void*>(copy.get()), kernel.parameters, kernel.bytes);
  MutexLock lock(&fake::R().mutex);
  CUstream_st* stream = fake::Resolve(shape.stream);
  if (stream->device != fake::CurrentDevice()) {
    return fake::Failed(cudaErrorInvalidResourceHandle,
                        std::string(kernel.name) + ": a stream of GPU " +
                            std::to_string(stream->device) + ", but the thread has GPU " +
                            std::to_string(fake::CurrentDevice()));
  }
  return fake::EnqueueLocked(
      stream, {.make = [s, kernel, copy]() -> fake::Run {
        return [=](const fake::StreamPosition& at, fake::Ended ended) {
          if (!s.together) {
            ended(emulation::Execute(kernel.name, s, at, {kernel.call, copy.get(), kernel.bytes}));
            return;
          }
          fake::StartWork();
          emulation::Begin(
              kernel.name, s, at, {kernel.call, copy.get(), kernel.bytes},
              [copy, ended = std::move(ended)](const std::string& error) { ended(error); });
        };
      }});
}

}  // namespace tessera::simt
