#include "kernels/core/shared_buffers.h"

#include <utility>

#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Keeps the device alive that owns the memory. Members die in reverse order.
struct Held {
  std::shared_ptr<SharedBuffers> owner;
  DeviceBuffer buffer;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const DeviceBuffer>> SharedBuffers::Get(
    const std::string& key, absl::FunctionRef<absl::StatusOr<DeviceBuffer>(Device&)> make) {
  MutexLock lock(&mutex_);
  std::weak_ptr<const DeviceBuffer>& known = buffers_[key];
  if (std::shared_ptr<const DeviceBuffer> buffer = known.lock()) return buffer;
  ASSIGN_OR_RETURN(DeviceBuffer made, make(device_));
  auto held = std::make_shared<Held>(Held{shared_from_this(), std::move(made)});
  const DeviceBuffer* const buffer = &held->buffer;
  std::shared_ptr<const DeviceBuffer> result(std::move(held), buffer);
  known = result;
  return result;
}

}  // namespace tessera
