// What the head can ask of a node.
#ifndef TESSERA_PARALLEL_CLUSTER_NODE_COMMAND_H_
#define TESSERA_PARALLEL_CLUSTER_NODE_COMMAND_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "parallel/cluster/control_stream_options.h"

namespace tessera {

// Bytes of the largest step plan that reaches a node: a control message less what goes around it.
inline constexpr size_t kMaxStepPlanBytes = kMaxControlMessage - 1024;

struct NodeCommand {
  enum class Kind : uint8_t { kLoad, kAllocateKv, kStep };
  Kind kind = Kind::kLoad;
  int32_t num_blocks = 0;  // kAllocateKv
  bool trial = false;      // kAllocateKv: for trial steps
  std::string step_plan;   // kStep: bytes of the engine, at most kMaxStepPlanBytes
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_NODE_COMMAND_H_
