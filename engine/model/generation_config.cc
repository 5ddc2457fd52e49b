#include "engine/model/generation_config.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "engine/files/json_fields.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 20;
constexpr double kSmallestPositive = 1e-9;
constexpr double kMaxTemperature = 1e3;
constexpr double kMaxPenalty = 1e3;
constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(std::string_view json,
                                                       std::string_view source,
                                                       const ModelConfig& config) {
  ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::Parse(json, source));
  GenerationConfig generation;
  generation.do_sample = fields.OptionalBool("do_sample");
  generation.temperature = fields.OptionalNumber("temperature", {0, kMaxTemperature});
  generation.top_k = fields.OptionalInt("top_k", {-1, kMaxInt});
  generation.top_p = fields.OptionalNumber("top_p", {kSmallestPositive, 1});
  generation.min_p = fields.OptionalNumber("min_p", {0, 1});
  generation.repetition_penalty =
      fields.OptionalNumber("repetition_penalty", {kSmallestPositive, kMaxPenalty});
  generation.max_new_tokens = fields.OptionalInt("max_new_tokens", {1, kMaxInt});
  generation.eos_token_ids = fields.Ints("eos_token_id", {0, config.vocab_size - 1});
  RETURN_IF_ERROR(fields.status());
  for (const int32_t id : config.eos_token_ids) AddEndToken(id, config, &generation);
  return generation;
}

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& directory,
                                                      const ModelConfig& config) {
  const std::string path = Message(directory, "/generation_config.json");
  const absl::StatusOr<std::string> text = ReadTextFile(path, kMaxBytes);
  if (absl::IsNotFound(text.status())) {
    GenerationConfig generation;
    generation.eos_token_ids = config.eos_token_ids;
    return generation;
  }
  RETURN_IF_ERROR(text.status());
  return ParseGenerationConfig(*text, path, config);
}

bool AddEndToken(int32_t token, const ModelConfig& config, GenerationConfig* generation) {
  std::vector<int32_t>& known = generation->eos_token_ids;
  if (token < 0 || token >= config.vocab_size) return false;
  if (std::find(known.begin(), known.end(), token) != known.end()) return false;
  known.push_back(token);
  return true;
}

}  // namespace tessera
