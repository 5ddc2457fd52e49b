#include "parallel/nccl/fake/fake_nccl.h"
#include "parallel/nccl/nccl_transport.h"

namespace tessera {
namespace {

// Small enough that short tensors take every path.
constexpr cuda::NcclOptions kOptions{.scratch_bytes = 64 << 10, .small_bytes = 4 << 10};

}  // namespace

std::unique_ptr<GpuTransport> CreateEmulatedGpuTransport() {
  return std::make_unique<cuda::NcclTransport>(cuda::FakeNccl(), kOptions);
}

}  // namespace tessera
