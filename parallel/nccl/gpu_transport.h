// Groups of ranks on GPUs, for who does not see CUDA.
#ifndef TESSERA_PARALLEL_NCCL_GPU_TRANSPORT_H_
#define TESSERA_PARALLEL_NCCL_GPU_TRANSPORT_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/device.h"
#include "parallel/communicator.h"
#include "parallel/rendezvous_store.h"

namespace tessera {

struct GpuGroup {
  std::string name;  // the same on all ranks; used once per transport and store
  int rank = 0;
  int size = 1;
  absl::Duration connect_timeout = absl::Seconds(60);
  absl::Duration timeout = absl::Seconds(60);  // of an operation that the GPU has come to
  // Of all ranks, when they live in several processes; null: the transport's own.
  RendezvousStore* store = nullptr;
};

// One per process. Any thread.
class GpuTransport {
 public:
  virtual ~GpuTransport() = default;
  // This rank's end. `device` is of the CUDA backend that the transport was made for and outlives
  // the communicator, as does the transport. Blocks until all ranks of the group call it. Errors:
  // those of NcclCommunicator::Join.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Join(const GpuGroup& group,
                                                             Device* device) = 0;
  // Fails all groups of this process with `reason`, also those that ranks are joining or have not
  // come to yet: who waits in Join returns within a second.
  virtual void Abort(const absl::Status& reason) = 0;
};

// For devices of this backend of kernels/ops.h; null when they are no GPUs. FAILED_PRECONDITION,
// with a sentence that says what to install, when NCCL is missing or too old.
absl::StatusOr<std::unique_ptr<GpuTransport>> CreateGpuTransport(std::string_view backend);

// For backend `cuda-emulated`: NCCL's stand-in; all ranks live in this process. What the
// environment's TESSERA_EMULATION_NCCL names is loaded in front of it, as NCCL would be, to see
// what is said when that fails.
absl::StatusOr<std::unique_ptr<GpuTransport>> CreateEmulatedGpuTransport();
// For backend `cuda`.
absl::StatusOr<std::unique_ptr<GpuTransport>> CreateCudaGpuTransport();

}  // namespace tessera

#endif  // TESSERA_PARALLEL_NCCL_GPU_TRANSPORT_H_
