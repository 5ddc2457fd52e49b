// Any config.json gives a model whose sizes can be computed with, or an error.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/model/generation_config.h"
#include "engine/model/model_config.h"
#include "engine/model/rope.h"
#include "kernels/core/status_macros.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = tessera::ParseModelConfig(text, "config.json");
  tessera::ModelConfig any;
  any.vocab_size = 100;
  if (const auto generation = tessera::ParseGenerationConfig(text, "generation_config.json", any);
      generation.ok() && generation->top_p) {
    TESSERA_CHECK(*generation->top_p > 0 && *generation->top_p <= 1);
  }
  if (!config.ok()) return 0;
  TESSERA_CHECK(config->num_parameters() > 0);
  TESSERA_CHECK(config->num_active_parameters() <= config->num_parameters());
  TESSERA_CHECK(config->context_limit() > 0);
  TESSERA_CHECK(config->KvBytesPerToken(tessera::DType::kF32) > 0);
  TESSERA_CHECK(config->num_attention_heads % config->num_key_value_heads == 0);
  const tessera::RopeTable rope = tessera::ComputeRope(*config);
  for (const float frequency : rope.inv_freq) TESSERA_CHECK(std::isfinite(frequency));
  TESSERA_CHECK(std::isfinite(rope.attention_factor));
  return 0;
}
