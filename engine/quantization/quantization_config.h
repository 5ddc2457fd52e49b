// What config.json says about quantised weights: quantization_config, checked.
#ifndef TESSERA_ENGINE_QUANTIZATION_QUANTIZATION_CONFIG_H_
#define TESSERA_ENGINE_QUANTIZATION_QUANTIZATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/files/json_fields.h"

namespace tessera {

// How the tensors of a quantised matrix W [N out, K in] lie in the checkpoint (stored_module.h).
enum class QuantizedLayout : uint8_t {
  kFp8,     // weight F8_E4M3 [N, K]
  kInt8,    // weight I8 [N, K]
  kPacked,  // weight_packed I32 [N, K / codes per word]
  kGptq,    // qweight I32 [K / codes per word, N]
  kAwq,     // qweight I32 [K, N / 8]
};

// What shares a scale.
enum class ScaleUnit : uint8_t {
  kTensor,
  kRow,    // an output channel
  kGroup,  // group_size inputs of an output channel
  kBlock,  // block_rows outputs by block_cols inputs
};

// What the file's makers had in mind for the input of the matrix.
enum class ActivationScheme : uint8_t { kFull, kInt8PerToken, kFp8PerToken, kFp8PerGroup };

struct QuantizationScheme {
  QuantizedLayout layout = QuantizedLayout::kFp8;
  int32_t bits = 8;  // of a code
  ScaleUnit scales = ScaleUnit::kTensor;
  int32_t group_size = -1;  // kGroup; -1: all inputs
  int32_t block_rows = 0;   // kBlock
  int32_t block_cols = 0;
  bool symmetric = true;         // no zero points, or such as must be zero
  bool zeros_less_one = false;   // GPTQ's first format stores zero points less one
  bool stores_groups = false;    // kPacked: weight_g_idx [K] says to which group an input belongs
  bool scale_may_miss = false;   // kTensor: without the tensor it is one
  bool negative_scales = false;  // some makers give the largest weight the code of most magnitude
  ActivationScheme activations = ActivationScheme::kFull;

  bool operator==(const QuantizationScheme&) const = default;
};

// "int4 in groups of 128 (GPTQ)", "fp8 in blocks of 128 x 128".
std::string SchemeText(const QuantizationScheme& scheme);

// An entry of a list of modules.
struct ModulePattern {
  enum class Kind : uint8_t {
    kName,       // the module or one that it is part of
    kSubstring,  // of the name; "mlp.gate" and "mlp.gate." both mean the router
    kRegex,      // from the name's begin on, not necessarily to its end
    kLinear,     // every matrix
  };
  Kind kind = Kind::kName;
  std::string text;
  std::string written;  // as in the file, for messages

  bool operator==(const ModulePattern&) const = default;
};

// Modules that are quantised in the same way.
struct QuantizationGroup {
  std::vector<ModulePattern> targets;
  QuantizationScheme scheme;

  bool operator==(const QuantizationGroup&) const = default;
};

struct QuantizationConfig {
  std::string method;  // quant_method
  std::vector<QuantizationGroup> groups;
  std::string skip_list;               // its key, for messages
  std::vector<ModulePattern> skipped;  // not quantised
  std::optional<bool> quantizes_head;  // said of lm_head in so many words
  bool lists_all_skipped = true;       // what is neither skipped nor exempt must be quantised
  bool kv_scales = false;              // attention modules have a k_scale and a v_scale

  bool operator==(const QuantizationConfig&) const = default;
};

// "gptq: int4 with zeros in groups of 128".
std::string QuantizationText(const QuantizationConfig& config);

// Reads the quantization_config (older: compression_config) of config.json. nullopt when there is
// none. Methods and variants that cannot be loaded are faults of `fields`, by name.
std::optional<QuantizationConfig> ReadQuantization(const JsonFields& config);

// Reads GPTQ's own file beside a config.json, quantize_config.json. Without a quantization of
// config.json it is the only word; with one it must agree: faults of `file`.
std::optional<QuantizationConfig> ReadGptqFile(const JsonFields& file,
                                               const std::optional<QuantizationConfig>& config);

}  // namespace tessera

#endif  // TESSERA_ENGINE_QUANTIZATION_QUANTIZATION_CONFIG_H_
