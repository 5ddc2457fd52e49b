#include <algorithm>

#include "engine/executor/executor.h"

namespace tessera {

MemoryReport LargestRank(const MemoryReport& a, const MemoryReport& b) {
  return {.weight_bytes = std::max(a.weight_bytes, b.weight_bytes),
          .buffer_bytes = std::max(a.buffer_bytes, b.buffer_bytes),
          .kv_block_bytes = std::max(a.kv_block_bytes, b.kv_block_bytes),
          .graph_bytes = std::max(a.graph_bytes, b.graph_bytes),
          .device_bytes = std::min(a.device_bytes, b.device_bytes),
          .device_free_bytes = std::min(a.device_free_bytes, b.device_free_bytes)};
}

}  // namespace tessera
