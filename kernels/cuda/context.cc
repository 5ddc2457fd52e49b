#include "kernels/cuda/context.h"

#include <algorithm>
#include <utility>

namespace tessera::cuda {

void* Scratch::Get(size_t bytes) {
  if (bytes <= memory_.bytes()) return memory_.data();
  // Half as much again, so that shapes that grow slowly do not stop the stream every time.
  const size_t size = std::max(bytes, memory_.bytes() + memory_.bytes() / 2);
  absl::StatusOr<DeviceBuffer> larger =
      device_.AllocateUncleared(size, "scratch memory of an operation");
  if (!larger.ok()) return nullptr;
  if (keeps_ && memory_.data() != nullptr) outgrown_.push_back(std::move(memory_));
  memory_ = *std::move(larger);
  return memory_.data();
}

Workspace WorkspaceOf(const Context& context, size_t bytes) {
  void* data = bytes == 0 ? nullptr : context.scratch->Get(bytes);
  return {.data = data, .bytes = data == nullptr ? 0 : bytes, .counters = context.counters};
}

}  // namespace tessera::cuda
