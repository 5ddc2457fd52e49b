// Host memory that several ranks of a process read: what one has made serves the others.
#ifndef TESSERA_KERNELS_CORE_SHARED_BUFFERS_H_
#define TESSERA_KERNELS_CORE_SHARED_BUFFERS_H_

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/core/host_device.h"
#include "kernels/core/mutex.h"

namespace tessera {

// Any thread. Lives at least as long as its buffers. Made with Create.
class SharedBuffers : public std::enable_shared_from_this<SharedBuffers> {
 public:
  static std::shared_ptr<SharedBuffers> Create() {
    return std::shared_ptr<SharedBuffers>(new SharedBuffers());
  }

  // The buffer under `key`. When nobody holds it (any more), `make` allocates and fills it; others
  // who ask meanwhile wait. Nobody may write to it afterwards.
  absl::StatusOr<std::shared_ptr<const DeviceBuffer>> Get(
      const std::string& key, absl::FunctionRef<absl::StatusOr<DeviceBuffer>(Device&)> make);

 private:
  SharedBuffers() = default;

  HostDevice device_;
  Mutex mutex_;
  std::map<std::string, std::weak_ptr<const DeviceBuffer>> buffers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_SHARED_BUFFERS_H_
