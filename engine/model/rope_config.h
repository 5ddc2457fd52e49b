// Both spellings of the rotary embedding in config.json.
#ifndef TESSERA_ENGINE_MODEL_ROPE_CONFIG_H_
#define TESSERA_ENGINE_MODEL_ROPE_CONFIG_H_

#include <cstdint>

#include "engine/files/json_fields.h"
#include "engine/model/model_config.h"

namespace tessera {

// Reads rope_parameters (transformers 5) or, without it, rope_theta and rope_scaling. Faults are
// recorded in fields.status(). Dynamic NTK scaling is refused: with a KV cache its result depends
// on when a key was written.
RopeConfig ReadRopeConfig(const JsonFields& fields, int32_t max_position_embeddings);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_ROPE_CONFIG_H_
