// Sampling defaults and stop ids a checkpoint brings along in generation_config.json.
#ifndef TESSERA_ENGINE_MODEL_GENERATION_CONFIG_H_
#define TESSERA_ENGINE_MODEL_GENERATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"

namespace tessera {

// Unset: the file does not say.
struct GenerationConfig {
  std::optional<bool> do_sample;
  std::optional<double> temperature;         // >= 0
  std::optional<int32_t> top_k;              // -1 and 0: no limit
  std::optional<double> top_p;               // (0, 1]
  std::optional<double> min_p;               // [0, 1]
  std::optional<double> repetition_penalty;  // > 0
  std::optional<int32_t> max_new_tokens;     // >= 1
  std::vector<int32_t> eos_token_ids;        // any of them ends the text

  bool operator==(const GenerationConfig&) const = default;
};

// Without eos_token_id in the file those of config.json hold. InvalidArgument names the file and
// the key.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view json,
                                                       std::string_view source,
                                                       const ModelConfig& config);

// Reads DIRECTORY/generation_config.json; a folder without one gives the defaults.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& directory,
                                                      const ModelConfig& config);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_GENERATION_CONFIG_H_
