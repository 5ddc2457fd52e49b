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
  // Any of them ends the text. The files of a model often name one each: Base models, say, have
  // <|endoftext|> here and <|im_end|> in tokenizer_config.json. So all that are named count.
  std::vector<int32_t> eos_token_ids;

  bool operator==(const GenerationConfig&) const = default;
};

// Of the end tokens those of the file come first, then those of config.json. InvalidArgument names
// the file and the key.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view json,
                                                       std::string_view source,
                                                       const ModelConfig& config);

// Reads DIRECTORY/generation_config.json; a folder without one gives the defaults.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& directory,
                                                      const ModelConfig& config);

// Adds the tokenizer's end token, unless it is known, negative or none of the model's tokens.
// Whether it was added.
bool AddEndToken(int32_t token, const ModelConfig& config, GenerationConfig* generation);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_GENERATION_CONFIG_H_
