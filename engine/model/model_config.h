// What config.json says about a Qwen3 or Qwen3-MoE model, checked.
#ifndef TESSERA_ENGINE_MODEL_MODEL_CONFIG_H_
#define TESSERA_ENGINE_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/quantization/quantization_config.h"
#include "kernels/core/dtype.h"

namespace tessera {

enum class Architecture : uint8_t { kQwen3, kQwen3Moe };

// "Qwen3ForCausalLM", "Qwen3MoeForCausalLM".
std::string_view ArchitectureName(Architecture architecture);

enum class RopeType : uint8_t { kDefault, kLinear, kYarn, kLlama3 };

// Rotary position embedding as written in rope_parameters, or in rope_theta and rope_scaling.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 0;
  double factor = 1;  // linear, yarn, llama3
  // yarn, llama3: the length the model was trained for before it was extended.
  int32_t original_max_position_embeddings = 0;
  // yarn only.
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> attention_factor;  // replaces the formula
  double mscale = 0;                       // used when both are non-zero
  double mscale_all_dim = 0;
  double attn_factor = 1;  // multiplies the formula
  bool truncate = true;    // round the correction range to whole pairs
  // llama3 only.
  double low_freq_factor = 0;
  double high_freq_factor = 0;

  bool operator==(const RopeConfig&) const = default;
};

// All values lie in ranges that keep every product below (parameters, bytes, matrix sizes) inside
// int64_t. A linear weight is [out_features, in_features].
struct ModelConfig {
  Architecture architecture = Architecture::kQwen3;
  int32_t vocab_size = 0;         // rows of the embedding and of lm_head
  int32_t hidden_size = 0;        // H
  int32_t intermediate_size = 0;  // FFN width of dense layers
  int32_t num_hidden_layers = 0;
  int32_t num_attention_heads = 0;  // Nq, a multiple of Nk
  int32_t num_key_value_heads = 0;  // Nk
  int32_t head_dim = 0;             // D, even; not H / Nq in general
  float rms_norm_eps = 0;
  int32_t max_position_embeddings = 0;
  RopeConfig rope;
  bool attention_bias = false;  // q, k, v and o projections have a bias
  bool tie_word_embeddings = false;

  // One entry per layer: 0 = full attention, w > 0 = a query at position p sees the keys
  // p - w < j <= p.
  std::vector<int32_t> layer_window;

  // Mixture of experts; zero in a dense model.
  int32_t num_experts = 0;
  int32_t num_experts_per_tok = 0;
  int32_t moe_intermediate_size = 0;
  bool norm_topk_prob = false;     // the chosen probabilities are divided by their sum
  std::vector<bool> layer_is_moe;  // one entry per layer

  DType dtype = DType::kF32;           // torch_dtype; the stored tensors may differ
  std::vector<int32_t> eos_token_ids;  // of config.json; generation_config.json has the last word
  std::optional<QuantizationConfig> quantization;  // of the stored weights

  bool has_moe_layers() const;
  // Longest sequence the model is made for: max_position_embeddings, or what linear or YaRN
  // scaling extends it to.
  int32_t context_limit() const;
  // Bytes of K and V of one token over all layers.
  int64_t KvBytesPerToken(DType kv_dtype) const;

  // Stored weights; a tied lm_head counts once.
  int64_t num_parameters() const;
  // Without the embedding and lm_head.
  int64_t num_non_embedding_parameters() const;
  // What one token touches: of the experts only num_experts_per_tok.
  int64_t num_active_parameters() const;

  bool operator==(const ModelConfig&) const = default;
};

// Checks everything: a value of the wrong type or outside its range, an architecture or feature
// this model code does not implement, and contradictions are InvalidArgument or Unimplemented with
// one line that names the file and the key. source: the file name for messages.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json, std::string_view source);

// Reads DIRECTORY/config.json, and quantize_config.json beside it where there is one.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_MODEL_CONFIG_H_
