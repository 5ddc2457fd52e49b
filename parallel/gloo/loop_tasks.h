// Work for Gloo's I/O thread.
#ifndef TESSERA_PARALLEL_GLOO_LOOP_TASKS_H_
#define TESSERA_PARALLEL_GLOO_LOOP_TASKS_H_

#include <gloo/transport/tcp/loop.h>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"

namespace gloo::transport::tcp {
class Device;
}  // namespace gloo::transport::tcp

namespace tessera {

// Gloo's I/O thread polls without a pause while another thread holds the lock of a connection that
// has something to read. When that thread has lost its core, perhaps to this polling, nothing moves
// for a scheduler's time slice. So connections are only used on the I/O thread.
class LoopTasks final : private gloo::transport::tcp::Handler {
 public:
  static absl::StatusOr<std::unique_ptr<LoopTasks>> Create(gloo::transport::tcp::Device* device);
  ~LoopTasks() override;  // tasks that have not begun are dropped
  LoopTasks(const LoopTasks&) = delete;
  LoopTasks& operator=(const LoopTasks&) = delete;

  // Tasks run one after the other and must not wait or throw. Any thread.
  void Run(std::function<void()> task);

 private:
  LoopTasks(gloo::transport::tcp::Device* device, int event);
  void handleEvents(int events) override;

  gloo::transport::tcp::Device* const device_;
  const int event_;  // an eventfd: readable while tasks wait
  std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_GLOO_LOOP_TASKS_H_
