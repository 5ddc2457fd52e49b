#include "engine/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_join.h"
#include "engine/files/json_fields.h"
#include "engine/files/message.h"
#include "engine/model/rope_config.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{4} << 20;

// Wide enough for models ten times the largest Qwen3, narrow enough that no product overflows.
constexpr IntRange kVocabRange{1, 1 << 24};
constexpr IntRange kWidthRange{1, 1 << 20};
constexpr IntRange kLayerRange{1, 1024};
constexpr IntRange kHeadRange{1, 4096};
constexpr IntRange kHeadDimRange{2, 1024};
constexpr IntRange kPositionRange{1, 1 << 30};
constexpr IntRange kExpertRange{0, 4096};
constexpr IntRange kIndexRange{0, std::numeric_limits<int32_t>::max()};
constexpr int64_t kMaxExpertsOverall = 65536;  // layers x experts

constexpr std::string_view kDenseModelType = "qwen3";
constexpr std::string_view kMoeModelType = "qwen3_moe";

struct ClassDefaults {
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t num_hidden_layers;
  int32_t num_key_value_heads;
};
constexpr ClassDefaults kDenseDefaults{4096, 22016, 32, 32};
constexpr ClassDefaults kMoeDefaults{2048, 6144, 24, 4};

void ReadArchitecture(const JsonFields& fields, ModelConfig& config) {
  const std::vector<std::string> names = fields.Strings("architectures");
  const auto has = [&](Architecture architecture) {
    return std::find(names.begin(), names.end(), ArchitectureName(architecture)) != names.end();
  };
  if (has(Architecture::kQwen3)) {
    config.architecture = Architecture::kQwen3;
  } else if (has(Architecture::kQwen3Moe)) {
    config.architecture = Architecture::kQwen3Moe;
  } else {
    fields.Fail("architectures", Message("is [", absl::StrJoin(names, ", ").substr(0, 200),
                                         "]; only Qwen3ForCausalLM and Qwen3MoeForCausalLM "
                                         "can be served"));
    return;
  }
  const std::string_view expected =
      config.architecture == Architecture::kQwen3 ? kDenseModelType : kMoeModelType;
  const std::string model_type = fields.String("model_type", expected);
  if (model_type != expected) {
    fields.Fail("model_type",
                Message("is \"", model_type.substr(0, 60), "\", but ",
                        ArchitectureName(config.architecture), " needs \"", expected, "\""));
  }
}

// Variants that share the names of Qwen3 but compute something else.
void RefuseOtherModels(const JsonFields& fields) {
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu") {
    fields.Fail("hidden_act",
                Message("is \"", activation.substr(0, 60), "\"; only \"silu\" is supported"));
  }
  if (!fields.Bool("use_qk_norm", true)) {
    fields.Fail("use_qk_norm", "is false; Qwen3 normalises q and k");
  }
  if (fields.Bool("qkv_bias", false)) {
    fields.Fail("qkv_bias", "is true; that is another architecture");
  }
  if (fields.Int("shared_expert_intermediate_size", 0, kIndexRange) > 0) {
    fields.Fail("shared_expert_intermediate_size",
                "is not 0; models with a shared expert are another architecture");
  }
  if (fields.Number("partial_rotary_factor", 1.0, {0, 1}) != 1.0) {
    fields.Fail("partial_rotary_factor", "is not 1; Qwen3 rotates whole heads");
  }
}

// What AutoGPTQ wrote beside a config.json that may say nothing of it.
absl::Status AddGptqFile(const std::string& path, ModelConfig& config) {
  const absl::StatusOr<std::string> text = ReadTextFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Parse(*text, path));
  config.quantization = ReadGptqFile(fields, config.quantization);
  return fields.status();
}

void ReadAttention(const JsonFields& fields, const ClassDefaults& defaults, ModelConfig& config) {
  config.num_attention_heads = fields.Int("num_attention_heads", 32, kHeadRange);
  // Absent and null differ here: null means one KV head per query head.
  const bool is_null = fields.Contains("num_key_value_heads") && !fields.Has("num_key_value_heads");
  config.num_key_value_heads =
      fields.Int("num_key_value_heads",
                 is_null ? config.num_attention_heads : defaults.num_key_value_heads, kHeadRange);
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.Fail("num_key_value_heads",
                Message("is ", config.num_key_value_heads, ", must divide num_attention_heads ",
                        config.num_attention_heads));
  }
  const bool dense = config.architecture == Architecture::kQwen3;
  if (!dense && !fields.Has("head_dim") && config.hidden_size % config.num_attention_heads != 0) {
    fields.Fail("head_dim", "is missing and num_attention_heads does not divide hidden_size");
  }
  config.head_dim = fields.Int(
      "head_dim", dense ? 128 : config.hidden_size / config.num_attention_heads, kHeadDimRange);
  if (config.head_dim % 2 != 0 || config.head_dim < 2 || config.head_dim > kHeadDimRange.max) {
    fields.Fail("head_dim", Message("is ", config.head_dim, ", must be even and from ",
                                    kHeadDimRange.min, " to ", kHeadDimRange.max));
  }
  config.attention_bias = fields.Bool("attention_bias", false);
}

// Which layers slide when layer_types is written out.
void ReadLayerTypes(const JsonFields& fields, int32_t window, ModelConfig& config) {
  const std::vector<std::string> types = fields.Strings("layer_types");
  if (types.size() != config.layer_window.size()) {
    fields.Fail("layer_types", Message("has ", types.size(), " entries for ",
                                       config.layer_window.size(), " layers"));
    return;
  }
  for (size_t layer = 0; layer < types.size(); ++layer) {
    if (types[layer] == "full_attention") continue;
    if (types[layer] != "sliding_attention") {
      fields.Fail("layer_types", Message("holds \"", types[layer].substr(0, 60),
                                         "\"; only full_attention and sliding_attention are "
                                         "supported"));
      return;
    }
    if (window == 0) {
      fields.Fail("layer_types",
                  "asks for sliding_attention, but use_sliding_window is not true "
                  "or sliding_window is null");
      return;
    }
    config.layer_window[layer] = window;
  }
}

void ReadSlidingWindow(const JsonFields& fields, ModelConfig& config) {
  config.layer_window.assign(static_cast<size_t>(config.num_hidden_layers), 0);
  int32_t window = 0;
  if (fields.Bool("use_sliding_window", false)) {
    // Absent means the class default, null means none.
    const bool is_null = fields.Contains("sliding_window") && !fields.Has("sliding_window");
    window = is_null ? 0 : fields.Int("sliding_window", 4096, kPositionRange);
  }
  const int32_t max_window_layers = fields.Int("max_window_layers", 28, kIndexRange);
  const bool dense = config.architecture == Architecture::kQwen3;
  if (fields.Has("layer_types")) ReadLayerTypes(fields, window, config);
  if (dense && fields.Has("layer_types")) return;
  // The MoE class of the reference slides in all layers, whatever layer_types says.
  const int32_t first = dense ? std::min(max_window_layers, config.num_hidden_layers) : 0;
  std::fill(config.layer_window.begin() + first, config.layer_window.end(), window);
}

void ReadExperts(const JsonFields& fields, ModelConfig& config) {
  config.layer_is_moe.assign(static_cast<size_t>(config.num_hidden_layers), false);
  if (config.architecture == Architecture::kQwen3) return;
  const int32_t by_new_name = fields.Int("num_local_experts", 128, kExpertRange);
  config.num_experts = fields.Int("num_experts", by_new_name, kExpertRange);
  if (fields.Has("num_local_experts") && by_new_name != config.num_experts) {
    fields.Fail("num_local_experts", "contradicts num_experts");
  }
  if (int64_t{config.num_experts} * config.num_hidden_layers > kMaxExpertsOverall) {
    fields.Fail("num_experts",
                Message("times num_hidden_layers is more than ", kMaxExpertsOverall));
  }
  config.num_experts_per_tok = fields.Int("num_experts_per_tok", 8, {1, kExpertRange.max});
  config.moe_intermediate_size = fields.Int("moe_intermediate_size", 768, kWidthRange);
  config.norm_topk_prob = fields.Bool("norm_topk_prob", false);
  const int32_t step = fields.Int("decoder_sparse_step", 1, {1, kIndexRange.max});
  const std::vector<int32_t> dense_layers = fields.Ints("mlp_only_layers", kIndexRange);
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    config.layer_is_moe[static_cast<size_t>(layer)] =
        config.num_experts > 0 && (layer + 1) % step == 0;
  }
  for (const int32_t layer : dense_layers) {
    if (layer < config.num_hidden_layers) config.layer_is_moe[static_cast<size_t>(layer)] = false;
  }
  if (config.num_experts > 0 && config.num_experts_per_tok > config.num_experts) {
    fields.Fail("num_experts_per_tok", Message("is ", config.num_experts_per_tok,
                                               ", more than num_experts ", config.num_experts));
  }
}

void ReadDType(const JsonFields& fields, ModelConfig& config) {
  const std::string_view key = fields.Has("dtype") ? "dtype" : "torch_dtype";
  const std::string name = fields.String(key, "float32");
  constexpr std::string_view kPrefix = "torch.";
  const bool prefixed = name.rfind(kPrefix, 0) == 0;
  const std::optional<DType> dtype = ParseDType(name.substr(prefixed ? kPrefix.size() : 0));
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
    fields.Fail(key, Message("is \"", name.substr(0, 60),
                             "\"; only float32, bfloat16 and float16 are supported"));
    return;
  }
  config.dtype = *dtype;
}

// Weights of the attention block and the two norms around it, in one layer.
int64_t AttentionParameters(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = int64_t{config.num_attention_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_key_value_heads} * config.head_dim;
  int64_t count = hidden * (2 * q_size + 2 * kv_size) + 2 * config.head_dim + 2 * hidden;
  if (config.attention_bias) count += q_size + 2 * kv_size + hidden;
  return count;
}

// experts: how many of them to count.
int64_t LayerParameters(const ModelConfig& config, int64_t experts) {
  const int64_t hidden = config.hidden_size;
  const int64_t dense = 3 * hidden * config.intermediate_size;
  const int64_t moe =
      hidden * config.num_experts + experts * 3 * hidden * config.moe_intermediate_size;
  const int64_t moe_layers =
      std::count(config.layer_is_moe.begin(), config.layer_is_moe.end(), true);
  return config.num_hidden_layers * AttentionParameters(config) + moe_layers * moe +
         (config.num_hidden_layers - moe_layers) * dense + hidden;
}

int64_t EmbeddingParameters(const ModelConfig& config) {
  return (config.tie_word_embeddings ? 1 : 2) * int64_t{config.vocab_size} * config.hidden_size;
}

}  // namespace

std::string_view ArchitectureName(Architecture architecture) {
  return architecture == Architecture::kQwen3 ? "Qwen3ForCausalLM" : "Qwen3MoeForCausalLM";
}

bool ModelConfig::has_moe_layers() const {
  return std::find(layer_is_moe.begin(), layer_is_moe.end(), true) != layer_is_moe.end();
}

int32_t ModelConfig::context_limit() const {
  double limit = max_position_embeddings;
  if (rope.type == RopeType::kLinear) limit *= rope.factor;
  if (rope.type == RopeType::kYarn) limit = rope.factor * rope.original_max_position_embeddings;
  // Rounded first: a factor like 1.1 must not lose a position to its binary fraction.
  return static_cast<int32_t>(std::floor(limit + 1e-6));
}

int64_t ModelConfig::KvBytesPerToken(DType kv_dtype) const {
  return 2 * int64_t{num_hidden_layers} * num_key_value_heads * head_dim *
         static_cast<int64_t>(SizeOf(kv_dtype));
}

int64_t ModelConfig::num_parameters() const {
  return LayerParameters(*this, num_experts) + EmbeddingParameters(*this);
}

int64_t ModelConfig::num_non_embedding_parameters() const {
  return LayerParameters(*this, num_experts);
}

int64_t ModelConfig::num_active_parameters() const {
  return LayerParameters(*this, num_experts_per_tok) + EmbeddingParameters(*this);
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json, std::string_view source) {
  ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Parse(json, source));
  ModelConfig config;
  ReadArchitecture(fields, config);
  RefuseOtherModels(fields);
  config.quantization = ReadQuantization(fields);
  // The first fault is the clearest; later ones may only follow from it.
  RETURN_IF_ERROR(fields.status());
  const ClassDefaults& defaults =
      config.architecture == Architecture::kQwen3 ? kDenseDefaults : kMoeDefaults;
  config.vocab_size = fields.Int("vocab_size", 151936, kVocabRange);
  config.hidden_size = fields.Int("hidden_size", defaults.hidden_size, kWidthRange);
  config.intermediate_size =
      fields.Int("intermediate_size", defaults.intermediate_size, kWidthRange);
  config.num_hidden_layers =
      fields.Int("num_hidden_layers", defaults.num_hidden_layers, kLayerRange);
  config.rms_norm_eps = static_cast<float>(fields.Number("rms_norm_eps", 1e-6, {1e-30, 1.0}));
  config.max_position_embeddings = fields.Int("max_position_embeddings", 32768, kPositionRange);
  config.tie_word_embeddings = fields.Bool("tie_word_embeddings", false);
  ReadAttention(fields, defaults, config);
  ReadSlidingWindow(fields, config);
  ReadExperts(fields, config);
  ReadDType(fields, config);
  config.eos_token_ids = fields.Ints("eos_token_id", {0, config.vocab_size - 1});
  config.rope = ReadRopeConfig(fields, config.max_position_embeddings);
  RETURN_IF_ERROR(fields.status());
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& directory) {
  const std::string path = Message(directory, "/config.json");
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text, path));
  RETURN_IF_ERROR(AddGptqFile(Message(directory, "/quantize_config.json"), config));
  return config;
}

}  // namespace tessera
