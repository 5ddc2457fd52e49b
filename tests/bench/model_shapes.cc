#include "tests/bench/model_shapes.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

struct Shape {
  std::string_view name;
  bool moe;
  bool tied;
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t num_hidden_layers;
  int32_t num_attention_heads;
  int32_t num_key_value_heads;
};

constexpr Shape kShapes[] = {
    {"qwen3-0.6b", false, true, 1024, 3072, 28, 16, 8},
    {"qwen3-1.7b", false, true, 2048, 6144, 28, 16, 8},
    {"qwen3-30b-a3b-8l", true, false, 2048, 6144, 8, 32, 4},
};

constexpr const char* kExperts = R"(
  "num_experts": 128,
  "num_experts_per_tok": 8,
  "moe_intermediate_size": 768,
  "norm_topk_prob": true,
  "decoder_sparse_step": 1,
  "mlp_only_layers": [],)";

}  // namespace

std::vector<std::string_view> ModelShapeNames() {
  std::vector<std::string_view> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

std::optional<std::string> ModelShapeConfig(std::string_view name) {
  const auto* shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const Shape& candidate) { return candidate.name == name; });
  if (shape == std::end(kShapes)) return std::nullopt;
  return absl::StrCat(
      "{\n  \"architectures\": [\"", shape->moe ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM",
      "\"],\n  \"model_type\": \"", shape->moe ? "qwen3_moe" : "qwen3",
      "\",\n  \"vocab_size\": 151936,\n  \"hidden_size\": ", shape->hidden_size,
      ",\n  \"intermediate_size\": ", shape->intermediate_size,
      ",\n  \"num_hidden_layers\": ", shape->num_hidden_layers,
      ",\n  \"num_attention_heads\": ", shape->num_attention_heads,
      ",\n  \"num_key_value_heads\": ", shape->num_key_value_heads, ",\n  \"head_dim\": 128,",
      shape->moe ? kExperts : "", "\n  \"rms_norm_eps\": 1e-06,\n  \"rope_theta\": 1000000,",
      "\n  \"max_position_embeddings\": 40960,\n  \"eos_token_id\": 151645,",
      "\n  \"torch_dtype\": \"bfloat16\",\n  \"tie_word_embeddings\": ",
      shape->tied ? "true" : "false", "\n}\n");
}

}  // namespace tessera
