// How a rank reaches the others inside a layer.
#ifndef TESSERA_ENGINE_MODEL_RANK_LINKS_H_
#define TESSERA_ENGINE_MODEL_RANK_LINKS_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "parallel/communicator.h"

namespace tessera {

enum class MoeComm : uint8_t { kAuto, kAllReduce, kAllToAll };

// All null for a single rank.
struct RankLinks {
  std::unique_ptr<Communicator> tp;     // the ranks that share my tokens; null when only me
  std::unique_ptr<Communicator> world;  // all ranks
  MoeComm moe_comm = MoeComm::kAuto;

  // Sums over the tensor-parallel group, in place.
  void AllReduceTp(TensorView tensor) const {
    if (tp != nullptr && tensor.num_elements() > 0) tp->AllReduce(tensor);
  }
};

// Makes a rank's ends for its device; called on the rank's thread.
using ConnectRank = std::function<absl::StatusOr<RankLinks>(Device* device)>;

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_RANK_LINKS_H_
