// How evenly the router burdens experts and ranks, and what became of moves.
#ifndef TESSERA_ENGINE_MODEL_EXPERT_LOADS_H_
#define TESSERA_ENGINE_MODEL_EXPERT_LOADS_H_

#include <cstdint>
#include <vector>

namespace tessera {

// The router's choices since the start, over all ranks, and how evenly they burden the ranks.
struct LayerLoad {
  std::vector<int64_t> choices;  // per expert; empty for a dense layer
  float max_over_mean = 0;       // rows of the busiest rank over the mean, in the last interval
};
// What became of moves of experts, counted by layer.
struct ExpertMoves {
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t timed_out = 0;
  int64_t flips = 0;  // switches to another placement
};
struct ExpertLoads {
  std::vector<LayerLoad> layers;  // of the model
  ExpertMoves moves;              // since the start
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_EXPERT_LOADS_H_
