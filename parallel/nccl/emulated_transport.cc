#include <cstdlib>

#include "kernels/core/status_macros.h"
#include "parallel/nccl/fake/fake_nccl.h"
#include "parallel/nccl/nccl_transport.h"

namespace tessera {
namespace {

// Small enough that short tensors take every path.
constexpr cuda::NcclOptions kOptions{
    .scratch_bytes = 64 << 10, .small_bytes = 4 << 10, .peer_bytes = 2 << 10};

}  // namespace

absl::StatusOr<std::unique_ptr<GpuTransport>> CreateEmulatedGpuTransport() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here changes the environment
  const char* file = std::getenv("TESSERA_EMULATION_NCCL");
  if (file != nullptr) RETURN_IF_ERROR(cuda::LoadNccl(file).status());
  return std::make_unique<cuda::NcclTransport>(cuda::FakeNccl(), kOptions);
}

}  // namespace tessera
