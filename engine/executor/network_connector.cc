#include "engine/executor/network_connector.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "kernels/core/status_macros.h"
#include "parallel/gloo/gloo_communicator.h"
#include "parallel/nccl/gpu_transport.h"

namespace tessera {
namespace {

// Ranks connect while they load, and not all at the same time: a watchdog for steps is too strict,
// and the control plane notices who is gone.
constexpr absl::Duration kConnectTimeout = absl::Minutes(2);

// The network ends of this process, made when the first rank needs them.
class SharedEndpoint {
 public:
  absl::StatusOr<std::shared_ptr<GlooEndpoint>> Get(const std::string& host) {
    absl::MutexLock lock(&mutex_);
    if (endpoint_ == nullptr) {
      ASSIGN_OR_RETURN(endpoint_, CreateGlooEndpoint({.interface = "", .address = host}));
    }
    return endpoint_;
  }
  absl::StatusOr<GpuTransport*> Gpus(const std::string& backend) {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(aborted_);
    if (gpus_ == nullptr) {
      ASSIGN_OR_RETURN(gpus_, CreateGpuTransport(backend));
    }
    return gpus_.get();
  }
  void Abort(const absl::Status& reason) {
    absl::MutexLock lock(&mutex_);
    aborted_.Update(reason);
    if (gpus_ != nullptr) gpus_->Abort(aborted_);
  }

 private:
  absl::Mutex mutex_;
  std::shared_ptr<GlooEndpoint> endpoint_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<GpuTransport> gpus_ ABSL_GUARDED_BY(mutex_);
  absl::Status aborted_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<Communicator>> ConnectGpus(SharedEndpoint& shared,
                                                          const NetworkOptions& options,
                                                          const RemoteGroup& group,
                                                          Device* device) {
  GpuTransport* gpus = nullptr;
  ASSIGN_OR_RETURN(gpus, shared.Gpus(options.backend));
  if (gpus == nullptr) {
    return absl::InvalidArgumentError(
        "this backend has no transport between ranks; use one rank, or another backend");
  }
  return gpus->Join({.name = group.name,
                     .rank = group.rank,
                     .size = group.size,
                     .connect_timeout = std::max(options.timeout, kConnectTimeout),
                     .timeout = options.timeout,
                     .store = options.store},
                    device);
}

}  // namespace

RemoteRanks ConnectOverNetwork(NetworkOptions options) {
  const auto shared = std::make_shared<SharedEndpoint>();
  RemoteRanks remote{.abort = [shared](const absl::Status& reason) { shared->Abort(reason); }};
  remote.connect = [options = std::move(options), shared](
                       const RemoteGroup& group,
                       Device* device) -> absl::StatusOr<std::unique_ptr<Communicator>> {
    if (device->host_queue() == nullptr) return ConnectGpus(*shared, options, group, device);
    ASSIGN_OR_RETURN(std::shared_ptr<GlooEndpoint> endpoint, shared->Get(options.host));
    return JoinGlooGroup(std::move(endpoint), options.store,
                         {.name = group.name,
                          .rank = group.rank,
                          .size = group.size,
                          .connect_timeout = std::max(options.timeout, kConnectTimeout),
                          .timeout = options.timeout},
                         device);
  };
  return remote;
}

}  // namespace tessera
