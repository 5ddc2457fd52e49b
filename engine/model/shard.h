// The slice of a model that one rank holds.
#ifndef TESSERA_ENGINE_MODEL_SHARD_H_
#define TESSERA_ENGINE_MODEL_SHARD_H_

#include <cstdint>

#include "engine/model/model_config.h"
#include "parallel/topology.h"

namespace tessera {

// Ranges of rows or columns of the full weights. Attention and dense layers are split over the
// tensor-parallel group, experts over the world: whole experts with expert_parallel, slices of
// every expert without.
struct ModelShard {
  int32_t tp_rank = 0;
  int32_t tp_size = 1;
  int32_t dp_rank = 0;
  int32_t dp_size = 1;
  bool expert_parallel = false;
  int32_t q_head_begin = 0;
  int32_t num_q_heads = 0;
  // With more ranks than KV heads, ranks share (replicate) a head.
  int32_t kv_head_begin = 0;
  int32_t num_kv_heads = 0;
  int32_t ffn_begin = 0;  // dense layers
  int32_t ffn_size = 0;
  int32_t moe_ffn_begin = 0;  // inside each expert
  int32_t moe_ffn_size = 0;
  int32_t expert_begin = 0;
  int32_t num_experts = 0;
  int32_t expert_slots = 0;  // places for experts: num_experts and those kept free for moves
  // Rows of embedding and lm_head. All ranks have vocab_rows; the last one's tail may be padding.
  int32_t vocab_begin = 0;
  int32_t vocab_rows = 0;
};

// The sizes that layouts depend on.
ModelShape LayoutShape(const ModelConfig& config);

// The layout must have passed ValidateLayout(layout, LayoutShape(config)). `spare_slots`: places
// for experts beyond the rank's share.
ModelShard MakeShard(const ModelConfig& config, const Topology& topology, int32_t spare_slots = 0);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_SHARD_H_
