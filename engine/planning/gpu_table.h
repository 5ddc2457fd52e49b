// GPUs that plans can be made for, with the numbers of their datasheets.
#ifndef TESSERA_ENGINE_PLANNING_GPU_TABLE_H_
#define TESSERA_ENGINE_PLANNING_GPU_TABLE_H_

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera {

// Datasheet values: peaks without sparsity, decimal units (80 GB = 80e9 bytes; the driver reports
// a few percent more). Bandwidths in bytes per second, links per direction and GPU.
struct GpuSpec {
  std::string_view name;         // as given on the command line
  std::string_view description;  // product and server
  int64_t memory_bytes = 0;
  double memory_bandwidth = 0;
  double bf16_flops = 0;  // dense tensor core peaks, operations per second
  double fp8_flops = 0;   // 0: no such units; weights are widened to bfloat16
  double int8_flops = 0;
  bool nvlink = false;           // else peers are reached over PCIe
  double link_bandwidth = 0;     // to the GPUs of the same node
  int32_t gpus_per_node = 0;     // of the usual server
  double network_bandwidth = 0;  // to other nodes
};

absl::Span<const GpuSpec> GpuTable();

// By name, in any case. INVALID_ARGUMENT lists the names.
absl::StatusOr<GpuSpec> FindGpu(std::string_view name);

}  // namespace tessera

#endif  // TESSERA_ENGINE_PLANNING_GPU_TABLE_H_
