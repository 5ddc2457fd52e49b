#include "engine/model/shard.h"

#include <algorithm>

namespace tessera {

ModelShape LayoutShape(const ModelConfig& config) {
  const bool has_dense = std::find(config.layer_is_moe.begin(), config.layer_is_moe.end(), false) !=
                         config.layer_is_moe.end();
  return {.num_q_heads = config.num_attention_heads,
          .num_kv_heads = config.num_key_value_heads,
          .head_dim = config.head_dim,
          .hidden = config.hidden_size,
          .intermediate = has_dense ? config.intermediate_size : 0,
          .moe_intermediate = config.has_moe_layers() ? config.moe_intermediate_size : 0,
          .experts = config.has_moe_layers() ? config.num_experts : 0,
          .vocab = config.vocab_size};
}

ModelShard MakeShard(const ModelConfig& config, const Topology& topology, int32_t spare_slots) {
  const ModelShape shape = LayoutShape(config);
  const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
  ModelShard shard;
  shard.tp_rank = topology.tp_rank();
  shard.tp_size = topology.tp_size();
  shard.dp_rank = topology.dp_rank();
  shard.dp_size = topology.dp_size();
  shard.expert_parallel = topology.expert_parallel();
  shard.q_head_begin = narrow(topology.QHeads(shape).begin);
  shard.num_q_heads = narrow(topology.QHeads(shape).count);
  shard.kv_head_begin = narrow(topology.KvHeads(shape).begin);
  shard.num_kv_heads = narrow(topology.KvHeads(shape).count);
  shard.ffn_begin = narrow(topology.Intermediate(shape).begin);
  shard.ffn_size = narrow(topology.Intermediate(shape).count);
  shard.vocab_begin = narrow(topology.Vocab(shape).begin);
  shard.vocab_rows = narrow(topology.VocabShardSize(shape));
  if (shape.experts == 0) return shard;
  shard.moe_ffn_begin = narrow(topology.MoeIntermediate(shape).begin);
  shard.moe_ffn_size = narrow(topology.MoeIntermediate(shape).count);
  shard.expert_begin = narrow(topology.Experts(shape).begin);
  shard.num_experts = narrow(topology.Experts(shape).count);
  shard.expert_slots = shard.num_experts + spare_slots;
  return shard;
}

}  // namespace tessera
