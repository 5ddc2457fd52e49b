#include "engine/planning/gpu_table.h"

#include <algorithm>
#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tessera {
namespace {

constexpr int64_t kGB = 1'000'000'000;
constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;

// Datasheets print tensor core peaks with 2:4 sparsity; dense is half of that. They print links as
// the sum of both directions; one direction is half of that. Network: the adapters of the named
// server divided by its GPUs, 400 Gb/s = 50 GB/s per direction.
constexpr std::array<GpuSpec, 5> kGpus = {{
    // NVIDIA H100 Tensor Core GPU Datasheet, column H100 SXM: 80 GB, 3.35 TB/s, BFLOAT16 1,979,
    // FP8 3,958 and INT8 3,958 with sparsity, NVLink 900 GB/s.
    // NVIDIA DGX H100 Datasheet: 8 GPUs, 8 ConnectX-7 adapters of 400 Gb/s for them.
    {.name = "h100",
     .description = "H100 SXM 80 GB, 8 per node (DGX H100)",
     .memory_bytes = 80 * kGB,
     .memory_bandwidth = 3.35 * kTera,
     .bf16_flops = 989.5 * kTera,
     .fp8_flops = 1979 * kTera,
     .int8_flops = 1979 * kTera,
     .nvlink = true,
     .link_bandwidth = 450 * kGiga,
     .gpus_per_node = 8,
     .network_bandwidth = 50 * kGiga},
    // NVIDIA H200 Tensor Core GPU Datasheet, column H200 SXM: 141 GB, 4.8 TB/s, peaks and NVLink of
    // the H100 SXM. NVIDIA DGX H200 Datasheet: 8 GPUs, 8 ConnectX-7 adapters of 400 Gb/s.
    {.name = "h200",
     .description = "H200 SXM 141 GB, 8 per node (DGX H200)",
     .memory_bytes = 141 * kGB,
     .memory_bandwidth = 4.8 * kTera,
     .bf16_flops = 989.5 * kTera,
     .fp8_flops = 1979 * kTera,
     .int8_flops = 1979 * kTera,
     .nvlink = true,
     .link_bandwidth = 450 * kGiga,
     .gpus_per_node = 8,
     .network_bandwidth = 50 * kGiga},
    // NVIDIA DGX B200 Datasheet: 8 GPUs with 1,440 GB and 64 TB/s, FP8 72 PFLOPS with sparsity,
    // 14.4 TB/s of NVLink, 8 ConnectX-7 ports of 400 Gb/s. NVIDIA Blackwell Architecture Technical
    // Brief, HGX B200 per GPU: FP16/BF16 2.25 PFLOPS and INT8 4.5 POPS dense.
    {.name = "b200",
     .description = "B200 SXM 180 GB, 8 per node (DGX B200)",
     .memory_bytes = 180 * kGB,
     .memory_bandwidth = 8.0 * kTera,
     .bf16_flops = 2250 * kTera,
     .fp8_flops = 4500 * kTera,
     .int8_flops = 4500 * kTera,
     .nvlink = true,
     .link_bandwidth = 900 * kGiga,
     .gpus_per_node = 8,
     .network_bandwidth = 50 * kGiga},
    // NVIDIA A100 Tensor Core GPU Datasheet, column A100 80GB SXM: 80 GB, 2,039 GB/s, BFLOAT16 312
    // and INT8 624 dense, no FP8, NVLink 600 GB/s. NVIDIA DGX A100 Datasheet: 8 GPUs, 8 ConnectX-6
    // adapters of 200 Gb/s.
    {.name = "a100",
     .description = "A100 SXM 80 GB, 8 per node (DGX A100)",
     .memory_bytes = 80 * kGB,
     .memory_bandwidth = 2.039 * kTera,
     .bf16_flops = 312 * kTera,
     .fp8_flops = 0,
     .int8_flops = 624 * kTera,
     .nvlink = true,
     .link_bandwidth = 300 * kGiga,
     .gpus_per_node = 8,
     .network_bandwidth = 25 * kGiga},
    // NVIDIA L40S Datasheet: 48 GB, 864 GB/s, BFLOAT16 362.05, FP8 733 and INT8 733 dense, PCIe
    // Gen4 x16 with 64 GB/s, no NVLink. Servers differ; assumed are 8 GPUs and 100 Gb/s for each.
    {.name = "l40s",
     .description = "L40S 48 GB, 8 per node over PCIe",
     .memory_bytes = 48 * kGB,
     .memory_bandwidth = 0.864 * kTera,
     .bf16_flops = 362.05 * kTera,
     .fp8_flops = 733 * kTera,
     .int8_flops = 733 * kTera,
     .nvlink = false,
     .link_bandwidth = 32 * kGiga,
     .gpus_per_node = 8,
     .network_bandwidth = 12.5 * kGiga},
}};

}  // namespace

absl::Span<const GpuSpec> GpuTable() { return kGpus; }

absl::StatusOr<GpuSpec> FindGpu(std::string_view name) {
  for (const GpuSpec& gpu : kGpus) {
    if (absl::EqualsIgnoreCase(std::string(gpu.name), std::string(name))) return gpu;
  }
  const auto append_name = [](std::string* out, const GpuSpec& gpu) { out->append(gpu.name); };
  return absl::InvalidArgumentError(absl::StrCat("no GPU \"", std::string(name),
                                                 "\" in the table; it has ",
                                                 absl::StrJoin(kGpus, ", ", append_name)));
}

}  // namespace tessera
