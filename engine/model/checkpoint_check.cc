#include "engine/model/checkpoint_check.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/files/message.h"
#include "engine/quantization/dequantize.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr size_t kMaxListed = 20;
constexpr std::string_view kHeadName = "lm_head.weight";
constexpr std::string_view kEmbeddingName = "model.embed_tokens.weight";

std::string LayerPrefix(int32_t layer) { return Message("model.layers.", layer, "."); }

void AddAttention(const ModelConfig& config, int32_t layer, std::vector<ExpectedTensor>& tensors) {
  const std::string prefix = LayerPrefix(layer);
  const std::string attention = prefix + "self_attn.";
  const int64_t hidden = config.hidden_size;
  const int64_t q_size = int64_t{config.num_attention_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_key_value_heads} * config.head_dim;
  const auto add_linear = [&](std::string_view name, int64_t out, int64_t in) {
    tensors.push_back({Message(attention, name, ".weight"), {out, in}});
    if (config.attention_bias) tensors.push_back({Message(attention, name, ".bias"), {out}});
  };
  tensors.push_back({prefix + "input_layernorm.weight", {hidden}});
  add_linear("q_proj", q_size, hidden);
  add_linear("k_proj", kv_size, hidden);
  add_linear("v_proj", kv_size, hidden);
  add_linear("o_proj", hidden, q_size);
  tensors.push_back({attention + "q_norm.weight", {config.head_dim}});
  tensors.push_back({attention + "k_norm.weight", {config.head_dim}});
  tensors.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
}

// A gated MLP: the dense one or one expert.
void AddMlp(const std::string& prefix, int64_t width, int64_t hidden,
            std::vector<ExpectedTensor>& tensors) {
  tensors.push_back({prefix + "gate_proj.weight", {width, hidden}});
  tensors.push_back({prefix + "up_proj.weight", {width, hidden}});
  tensors.push_back({prefix + "down_proj.weight", {hidden, width}});
}

// fused: the experts of the layer are in two tensors.
void AddFeedForward(const ModelConfig& config, int32_t layer, bool fused,
                    std::vector<ExpectedTensor>& tensors) {
  const std::string prefix = LayerPrefix(layer) + "mlp.";
  const int64_t hidden = config.hidden_size;
  const int64_t width = config.moe_intermediate_size;
  if (!config.layer_is_moe[static_cast<size_t>(layer)]) {
    AddMlp(prefix, config.intermediate_size, hidden, tensors);
    return;
  }
  tensors.push_back({prefix + "gate.weight", {config.num_experts, hidden}});
  if (fused) {
    tensors.push_back({FusedGateUpName(layer), {config.num_experts, 2 * width, hidden}});
    tensors.push_back({FusedDownName(layer), {config.num_experts, hidden, width}});
    return;
  }
  for (int32_t expert = 0; expert < config.num_experts; ++expert) {
    AddMlp(Message(prefix, "experts.", expert, "."), width, hidden, tensors);
  }
}

template <typename IsFused>
std::vector<ExpectedTensor> ListTensors(const ModelConfig& config, const IsFused& is_fused) {
  const std::vector<int64_t> embedding_shape = {config.vocab_size, config.hidden_size};
  std::vector<ExpectedTensor> tensors;
  tensors.push_back({std::string(kEmbeddingName), embedding_shape});
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    AddAttention(config, layer, tensors);
    AddFeedForward(config, layer, is_fused(layer), tensors);
  }
  tensors.push_back({"model.norm.weight", {config.hidden_size}});
  if (!config.tie_word_embeddings) tensors.push_back({std::string(kHeadName), embedding_shape});
  return tensors;
}

bool IsWeightType(const SafetensorsEntry& entry) {
  return entry.dtype == DType::kBF16 || entry.dtype == DType::kF16 || entry.dtype == DType::kF32;
}

// What is wrong with the tensor; empty when nothing is.
std::string FindFault(const ExpectedTensor& expected, const StoredTensor& stored) {
  if (stored.file == nullptr) return "missing";
  if (stored.entry->shape != expected.shape) {
    return Message("has shape ", ShapeText(stored.entry->shape), ", config.json asks for ",
                   ShapeText(expected.shape));
  }
  if (!IsWeightType(*stored.entry)) {
    return Message("has dtype ", stored.entry->dtype_name,
                   ", which is not supported here; BF16, F16 and F32 are");
  }
  return "";
}

void AddError(std::string_view path, std::string_view name, std::string_view what,
              CheckpointReport& report) {
  ++report.num_errors;
  if (report.errors.size() == kMaxListed) return;
  report.errors.push_back(Message(path, ": tensor ", PrintableName(name), ": ", what));
}

// Stored by some tools although the model computes or ignores them.
bool IsHarmless(const ModelConfig& config, std::string_view name) {
  const bool kv_scale =
      config.quantization && config.quantization->kv_scales &&
      (name.ends_with(".self_attn.k_scale") || name.ends_with(".self_attn.v_scale"));
  return kv_scale || (name == kHeadName && config.tie_word_embeddings) ||
         name.ends_with("rotary_emb.inv_freq");
}

constexpr std::string_view kWeightSuffix = ".weight";

WantedModule AsModule(const ModelConfig& config, const ExpectedTensor& tensor) {
  const std::string_view all = tensor.name;
  const std::string_view name = all.substr(0, all.size() - kWeightSuffix.size());
  return {.name = std::string(name),
          .rows = tensor.shape[0],
          .cols = tensor.shape[1],
          .has_bias = config.attention_bias && name.find(".self_attn.") != std::string_view::npos,
          .usually_plain = tensor.name == kHeadName || name.ends_with(".mlp.gate")};
}

void FindSurplus(const ModelConfig& config, const Checkpoint& checkpoint,
                 const absl::flat_hash_set<std::string>& known, CheckpointReport& report) {
  for (const std::string_view name : checkpoint.names()) {
    if (known.contains(std::string(name)) || IsHarmless(config, name)) continue;
    AddError(checkpoint.Find(name).file->path(), name,
             "not part of the model that config.json describes", report);
  }
}

}  // namespace

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  return ListTensors(config, [](int32_t) { return false; });
}

std::string EmbeddingName(const ModelConfig& config, const Checkpoint& checkpoint) {
  const bool only_head = config.tie_word_embeddings && checkpoint.Contains(kHeadName) &&
                         !checkpoint.Contains(kEmbeddingName);
  return std::string(only_head ? kHeadName : kEmbeddingName);
}

absl::StatusOr<bool> HasOwnHead(const ModelConfig& config, const Checkpoint& checkpoint) {
  if (!config.tie_word_embeddings) return true;
  for (const char* const codes : {"lm_head.qweight", "lm_head.weight_packed"}) {
    if (checkpoint.Contains(codes)) return true;
  }
  const StoredTensor head = checkpoint.Find(kHeadName);
  const StoredTensor embedding = checkpoint.Find(kEmbeddingName);
  if (head.file == nullptr || embedding.file == nullptr) return false;
  if (head.entry->dtype != embedding.entry->dtype || head.entry->shape != embedding.entry->shape) {
    return true;
  }
  ASSIGN_OR_RETURN(const std::byte* const left, head.Map());
  ASSIGN_OR_RETURN(const std::byte* const right, embedding.Map());
  const bool same = std::memcmp(left, right, static_cast<size_t>(head.entry->num_bytes)) == 0;
  head.Release();
  embedding.Release();
  return !same;
}

std::string FusedGateUpName(int32_t layer) {
  return LayerPrefix(layer) + "mlp.experts.gate_up_proj";
}

std::string FusedDownName(int32_t layer) { return LayerPrefix(layer) + "mlp.experts.down_proj"; }

bool HasFusedExperts(const Checkpoint& checkpoint, int32_t layer) {
  return checkpoint.Contains(FusedGateUpName(layer));
}

absl::Status CheckpointReport::status() const {
  if (ok()) return absl::OkStatus();
  std::string message = errors.front();
  if (num_errors > 1) message += Message(" (and ", num_errors - 1, " more)");
  return absl::InvalidArgumentError(message);
}

namespace {

// All that the model consists of, as the checkpoint names it.
std::vector<ExpectedTensor> ListFor(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::vector<ExpectedTensor> expected =
      ListTensors(config, [&](int32_t layer) { return HasFusedExperts(checkpoint, layer); });
  expected.front().name = EmbeddingName(config, checkpoint);
  return expected;
}

// Norms are vectors; experts in the fused layout have three dimensions.
bool IsMatrix(const ExpectedTensor& tensor) {
  return tensor.shape.size() == 2 && tensor.name.ends_with(kWeightSuffix);
}

CheckpointReport WithError(CheckpointReport report, const absl::Status& status) {
  ++report.num_errors;
  report.errors.emplace_back(status.message());
  return report;
}

std::string ErrorText(const ModuleFault& fault) {
  return Message(fault.path, ": tensor ", PrintableName(fault.tensor), ": ", fault.what);
}

}  // namespace

CheckpointReport VerifyCheckpoint(const ModelConfig& config, const Checkpoint& checkpoint) {
  CheckpointReport report;
  report.warnings = checkpoint.warnings();
  const absl::StatusOr<ModuleRules> rules = ModuleRules::Create(config.quantization);
  if (!rules.ok()) return WithError(std::move(report), rules.status());
  absl::flat_hash_set<std::string> known;
  const std::vector<ExpectedTensor> expected = ListFor(config, checkpoint);
  for (const ExpectedTensor& tensor : expected) {
    // The embedding is not quantised, whatever it is called.
    if (IsMatrix(tensor) && &tensor != &expected.front()) {
      const ModuleSearch found = FindModule(checkpoint, *rules, AsModule(config, tensor));
      known.insert(tensor.name);
      known.insert(found.tensors.begin(), found.tensors.end());
      if (found.fault) AddError(found.fault->path, found.fault->tensor, found.fault->what, report);
      continue;
    }
    known.insert(tensor.name);
    const StoredTensor stored = checkpoint.Find(tensor.name);
    const std::string fault = FindFault(tensor, stored);
    if (fault.empty()) continue;
    AddError(stored.file == nullptr ? checkpoint.index_path() : stored.file->path(), tensor.name,
             fault, report);
  }
  FindSurplus(config, checkpoint, known, report);
  return report;
}

absl::StatusOr<StoredModule> FindMatrix(const ModelConfig& config, const Checkpoint& checkpoint,
                                        const ModuleRules& rules, const ExpectedTensor& weight) {
  ModuleSearch found = FindModule(checkpoint, rules, AsModule(config, weight));
  if (!found.fault) return std::move(found.module);
  return absl::InvalidArgumentError(ErrorText(*found.fault));
}

namespace {

// The exponent's bits are all set in NaN and infinities, and nowhere else.
template <typename Bits>
int64_t CountWithAllBits(const std::byte* data, int64_t bytes, Bits exponent) {
  int64_t count = 0;
  for (int64_t at = 0; at < bytes; at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, data + at, sizeof(Bits));
    count += (bits & exponent) == exponent ? 1 : 0;
  }
  return count;
}

int64_t CountNonFinite(const std::byte* data, const SafetensorsEntry& entry) {
  if (entry.dtype == DType::kBF16) return CountWithAllBits<uint16_t>(data, entry.num_bytes, 0x7F80);
  if (entry.dtype == DType::kF16) return CountWithAllBits<uint16_t>(data, entry.num_bytes, 0x7C00);
  if (entry.dtype != DType::kF32) return 0;
  return CountWithAllBits<uint32_t>(data, entry.num_bytes, 0x7F800000);
}

// What is wrong with the tensor's values; empty when nothing is.
std::string FindBrokenValues(const StoredTensor& stored) {
  const auto data = stored.Map();
  if (!data.ok()) return std::string(data.status().message());
  const int64_t broken = CountNonFinite(*data, *stored.entry);
  stored.Release();
  return broken == 0 ? "" : Message(broken, " values are NaN or infinite");
}

}  // namespace

namespace {

// Checks quantised matrices and returns the names of their tensors.
absl::flat_hash_set<std::string> VerifyQuantized(const ModelConfig& config,
                                                 const Checkpoint& checkpoint,
                                                 CheckpointReport& report) {
  absl::flat_hash_set<std::string> tensors;
  const absl::StatusOr<ModuleRules> rules = ModuleRules::Create(config.quantization);
  if (!config.quantization || !rules.ok()) return tensors;
  const std::vector<ExpectedTensor> expected = ListFor(config, checkpoint);
  for (const ExpectedTensor& tensor : expected) {
    if (!IsMatrix(tensor) || &tensor == &expected.front()) continue;
    const ModuleSearch found = FindModule(checkpoint, *rules, AsModule(config, tensor));
    if (found.fault || !found.module.scheme) continue;
    tensors.insert(found.tensors.begin(), found.tensors.end());
    const absl::Status status = CheckValues(found.module);
    if (status.ok()) continue;
    ++report.num_errors;
    if (report.errors.size() < kMaxListed) report.errors.emplace_back(status.message());
  }
  return tensors;
}

}  // namespace

CheckpointReport VerifyValues(const ModelConfig& config, const Checkpoint& checkpoint,
                              const LoadProgress& progress) {
  CheckpointReport report;
  const absl::flat_hash_set<std::string> verified = VerifyQuantized(config, checkpoint, report);
  for (const std::string_view name : checkpoint.names()) {
    if (verified.contains(std::string(name))) continue;
    const StoredTensor stored = checkpoint.Find(name);
    const std::string fault = FindBrokenValues(stored);
    if (!fault.empty()) AddError(stored.file->path(), name, fault, report);
    if (progress) {
      progress(std::min(1.0, static_cast<double>(checkpoint.bytes_read()) /
                                 static_cast<double>(checkpoint.total_bytes())));
    }
  }
  return report;
}

}  // namespace tessera
