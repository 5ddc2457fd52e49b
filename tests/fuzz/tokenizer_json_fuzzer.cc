// A tokenizer.json and, after the first zero byte, a tokenizer_config.json: both are either refused
// in one line or give a tokenizer that encodes and decodes.
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  tessera::TokenizerSources sources;
  sources.tokenizer_json = input.substr(0, zero);
  if (zero != std::string_view::npos) sources.config_json = input.substr(zero + 1);
  const auto tokenizer = tessera::Tokenizer::Parse(sources);
  if (!tokenizer.ok()) {
    TESSERA_CHECK(tokenizer.status().message().find('\n') == std::string::npos);
    return 0;
  }
  const std::string text = "The <think> 42 caf\u00E9s <|im_end|>\n";
  const auto ids = *(*tokenizer)->Encode(text, {.parse_added_tokens = true});
  for (const int32_t id : ids) TESSERA_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
  (void)(*tokenizer)->Decode(ids, true);
  return 0;
}
