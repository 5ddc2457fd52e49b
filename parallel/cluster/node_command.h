// What the head can ask of a node.
#ifndef TESSERA_PARALLEL_CLUSTER_NODE_COMMAND_H_
#define TESSERA_PARALLEL_CLUSTER_NODE_COMMAND_H_

#include <cstdint>
#include <string>

namespace tessera {

struct NodeCommand {
  enum class Kind : uint8_t { kLoad, kAllocateKv, kStep };
  Kind kind = Kind::kLoad;
  int32_t num_blocks = 0;  // kAllocateKv
  std::string step_plan;   // kStep: bytes of the engine
};

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_NODE_COMMAND_H_
