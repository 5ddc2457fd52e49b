#include "engine/executor/network_connector.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "kernels/core/status_macros.h"
#include "parallel/gloo/gloo_communicator.h"

namespace tessera {
namespace {

// Ranks connect while they load, and not all at the same time: a watchdog for steps is too strict,
// and the control plane notices who is gone.
constexpr absl::Duration kConnectTimeout = absl::Minutes(2);

// The network end of this process, made when the first rank needs it.
class SharedEndpoint {
 public:
  absl::StatusOr<std::shared_ptr<GlooEndpoint>> Get(const std::string& host) {
    absl::MutexLock lock(&mutex_);
    if (endpoint_ == nullptr) {
      ASSIGN_OR_RETURN(endpoint_, CreateGlooEndpoint({.interface = "", .address = host}));
    }
    return endpoint_;
  }

 private:
  absl::Mutex mutex_;
  std::shared_ptr<GlooEndpoint> endpoint_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

ConnectRemote ConnectOverNetwork(NetworkOptions options) {
  return [options = std::move(options), shared = std::make_shared<SharedEndpoint>()](
             const RemoteGroup& group,
             Device* device) -> absl::StatusOr<std::unique_ptr<Communicator>> {
    ASSIGN_OR_RETURN(std::shared_ptr<GlooEndpoint> endpoint, shared->Get(options.host));
    return JoinGlooGroup(std::move(endpoint), options.store,
                         {.name = group.name,
                          .rank = group.rank,
                          .size = group.size,
                          .connect_timeout = std::max(options.timeout, kConnectTimeout),
                          .timeout = options.timeout},
                         device);
  };
}

}  // namespace tessera
