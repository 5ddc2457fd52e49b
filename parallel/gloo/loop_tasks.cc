#include "parallel/gloo/loop_tasks.h"

#include <gloo/transport/tcp/device.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "kernels/core/status_macros.h"

namespace tessera {

absl::StatusOr<std::unique_ptr<LoopTasks>> LoopTasks::Create(gloo::transport::tcp::Device* device) {
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0) return absl::ResourceExhaustedError("no file descriptor for Gloo's I/O thread");
  return std::unique_ptr<LoopTasks>(new LoopTasks(device, event));
}

LoopTasks::LoopTasks(gloo::transport::tcp::Device* device, int event)
    : device_(device), event_(event) {
  device_->registerDescriptor(event_, EPOLLIN, this);
}

LoopTasks::~LoopTasks() {
  device_->unregisterDescriptor(event_, this);
  close(event_);
}

void LoopTasks::Run(std::function<void()> task) {
  bool idle = false;
  {
    const std::lock_guard lock(mutex_);
    idle = tasks_.empty();
    tasks_.push_back(std::move(task));
  }
  const uint64_t one = 1;
  if (idle) TESSERA_CHECK(write(event_, &one, sizeof(one)) == sizeof(one));
}

void LoopTasks::handleEvents(int /*events*/) {
  uint64_t count = 0;
  // Fails when there is nothing to read, which is no harm.
  if (read(event_, &count, sizeof(count)) < 0) count = 0;
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

}  // namespace tessera
