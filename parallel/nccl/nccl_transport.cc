#include "parallel/nccl/nccl_transport.h"

#include "kernels/core/status_macros.h"

namespace tessera::cuda {

absl::StatusOr<std::unique_ptr<Communicator>> NcclTransport::Join(const GpuGroup& group,
                                                                  Device* device) {
  std::shared_ptr<NcclGroup> shared;
  {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<NcclGroup>& entry = groups_[group.name];
    if (entry == nullptr) entry = std::make_shared<NcclGroup>(group.name, group.size);
    RETURN_IF_ERROR(aborted_);
    shared = entry;
  }
  NcclOptions options = options_;
  options.connect_timeout = group.connect_timeout;
  options.timeout = group.timeout;
  return NcclCommunicator::Join(library_, std::move(shared),
                                {.rank = group.rank,
                                 .device = static_cast<CudaDevice*>(device),
                                 .store = group.store == nullptr ? &store_ : group.store},
                                options);
}

void NcclTransport::Abort(const absl::Status& reason) {
  absl::MutexLock lock(&mutex_);
  aborted_.Update(reason);
  for (const auto& [name, group] : groups_) group->Abort(aborted_);
}

}  // namespace tessera::cuda
