// Whether a rank's weights fit into its device, before anything of them is read.
#ifndef TESSERA_ENGINE_EXECUTOR_WEIGHT_ROOM_H_
#define TESSERA_ENGINE_EXECUTOR_WEIGHT_ROOM_H_

#include "absl/status/status.h"
#include "engine/executor/group_settings.h"
#include "engine/model/model_config.h"
#include "kernels/core/device.h"

namespace tessera {

// RESOURCE_EXHAUSTED when the device has too little free memory of its own for the matrices of a
// rank: what they need, what is free, and what would fit. Refuses nothing that does.
absl::Status CheckWeightRoom(const ModelConfig& config, const GroupSettings& settings,
                             const Device& device);

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_WEIGHT_ROOM_H_
