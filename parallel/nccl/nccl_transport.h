// Keeps the groups of a process.
#ifndef TESSERA_PARALLEL_NCCL_NCCL_TRANSPORT_H_
#define TESSERA_PARALLEL_NCCL_NCCL_TRANSPORT_H_

#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "parallel/nccl/gpu_transport.h"
#include "parallel/nccl/nccl_communicator.h"

namespace tessera::cuda {

class NcclTransport final : public GpuTransport {
 public:
  // `options`: the memory; groups bring their times.
  NcclTransport(const NcclLibrary& library, const NcclOptions& options)
      : library_(library), options_(options) {}

  absl::StatusOr<std::unique_ptr<Communicator>> Join(const GpuGroup& group,
                                                     Device* device) override;
  void Abort(const absl::Status& reason) override;

 private:
  const NcclLibrary library_;
  const NcclOptions options_;
  MemoryRendezvousStore store_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<NcclGroup>> groups_ ABSL_GUARDED_BY(mutex_);
  absl::Status aborted_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::cuda

#endif  // TESSERA_PARALLEL_NCCL_NCCL_TRANSPORT_H_
