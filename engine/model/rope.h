// Rotary position embedding: frequencies and the cos/sin table.
#ifndef TESSERA_ENGINE_MODEL_ROPE_H_
#define TESSERA_ENGINE_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "engine/model/model_config.h"

namespace tessera {

// Pair j couples the elements j and j + head_dim / 2 of a head and turns by
// position * inv_freq[j].
struct RopeTable {
  std::vector<float> inv_freq;  // [head_dim / 2]
  float attention_factor = 1;   // multiplies cos and sin; not 1 only with YaRN
};

// The frequencies in float32, rounded where the Hugging Face reference rounds them. YaRN: Peng et
// al., "YaRN: Efficient Context Window Extension of Large Language Models", section 3.
RopeTable ComputeRope(const ModelConfig& config);

// [num_positions, head_dim]: row p holds cos of the head_dim / 2 angles of position p, then their
// sines, each times the attention factor. Angles are the float32 product position * inv_freq.
std::vector<float> BuildCosSinTable(const RopeTable& rope, int32_t head_dim, int64_t num_positions);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_ROPE_H_
