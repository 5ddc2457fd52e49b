// Does a checkpoint hold the tensors its configuration asks for?
#ifndef TESSERA_ENGINE_MODEL_CHECKPOINT_CHECK_H_
#define TESSERA_ENGINE_MODEL_CHECKPOINT_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/load_progress.h"
#include "engine/model/model_config.h"
#include "engine/quantization/module_rules.h"
#include "engine/quantization/stored_module.h"

namespace tessera {

struct ExpectedTensor {
  std::string name;            // as Hugging Face stores it
  std::vector<int64_t> shape;  // a linear weight is [out_features, in_features]

  bool operator==(const ExpectedTensor&) const = default;
};

// The stored tensors of a model, layer by layer, with one weight per expert and projection. No
// lm_head when it is tied.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

// The tensor that holds the embedding: "model.embed_tokens.weight", or "lm_head.weight" where that
// is tied to it and stored alone.
std::string EmbeddingName(const ModelConfig& config, const Checkpoint& checkpoint);

// Whether logits are made by a stored lm_head instead of the embedding: not tied, or, as in
// transformers 5, tied by the configuration but stored with other values. Reads both matrices in
// that case.
absl::StatusOr<bool> HasOwnHead(const ModelConfig& config, const Checkpoint& checkpoint);
// For the log, when it has although its configuration says otherwise.
inline constexpr char kUntiedHeadWarning[] =
    "config.json ties lm_head to the embedding (tie_word_embeddings), but lm_head.weight is stored "
    "with other values: the stored one is used";

// Names of the fused layout, all experts of a layer in two tensors:
// gate_up_proj [num_experts, 2 * moe_intermediate_size, hidden_size] holds the gate rows of an
// expert, then its up rows; down_proj [num_experts, hidden_size, moe_intermediate_size].
std::string FusedGateUpName(int32_t layer);
std::string FusedDownName(int32_t layer);
// The experts of this layer are stored in the fused layout.
bool HasFusedExperts(const Checkpoint& checkpoint, int32_t layer);

struct CheckpointReport {
  std::vector<std::string> errors;    // "FILE: tensor NAME: what is wrong", at most 20
  std::vector<std::string> warnings;  // oddities of the index
  int64_t num_errors = 0;             // all of them

  bool ok() const { return num_errors == 0; }
  // The first error as InvalidArgument, with the number of others.
  absl::Status status() const;
};

// Compares names, shapes and types (BF16, F16 or F32; quantised matrices: those of
// engine/quantization/stored_module.h) with what the configuration implies; reads no weights. Both
// layouts of experts are accepted, layer by layer. A tensor that the configuration does not imply
// is an error, as it belongs to another model; an lm_head beside tied embeddings (see HasOwnHead)
// and stored tables of RoPE frequencies are ignored.
CheckpointReport VerifyCheckpoint(const ModelConfig& config, const Checkpoint& checkpoint);

// Reads all values of all tensors and names the tensors with NaN or infinities, as errors, and what
// quantised matrices must not hold (engine/quantization/dequantize.h). `progress` may be empty; it
// gets the share that has been read.
CheckpointReport VerifyValues(const ModelConfig& config, const Checkpoint& checkpoint,
                              const LoadProgress& progress);

// A linear weight, as stored; `weight`: its entry of ExpectedTensors. In a checkpoint that passes
// VerifyCheckpoint every one is found; otherwise INVALID_ARGUMENT names file and tensor. `rules`:
// of config.quantization. Touches no page.
absl::StatusOr<StoredModule> FindMatrix(const ModelConfig& config, const Checkpoint& checkpoint,
                                        const ModuleRules& rules, const ExpectedTensor& weight);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_CHECKPOINT_CHECK_H_
