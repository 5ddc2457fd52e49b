// Any bytes encode; decoding gives back the normalised text, and untrusted text never holds an
// added token. The first byte says where the text is cut into an untrusted and a trusted segment.
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/nfc.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8_stream.h"
#include "kernels/core/status_macros.h"

namespace {

const tessera::Tokenizer& SmallTokenizer() {
  static const auto* const tokenizer = [] {
    auto loaded = tessera::Tokenizer::Load(TESSERA_NANO_MODEL);
    TESSERA_CHECK(loaded.ok());
    return new std::shared_ptr<const tessera::Tokenizer>(*std::move(loaded));
  }();
  return **tokenizer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const tessera::Tokenizer& tokenizer = SmallTokenizer();
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto first_added = *tokenizer.TokenId("<|endoftext|>");

  const auto plain = *tokenizer.Encode(text, {.parse_added_tokens = false});
  for (const int32_t id : plain) TESSERA_CHECK(id >= 0 && id < first_added);
  std::string repaired;
  std::string storage;
  tessera::AppendRepairedUtf8(text, &repaired);
  TESSERA_CHECK(tokenizer.Decode(plain, false) == tessera::NormalizeNfc(repaired, &storage));

  const size_t cut = text.empty() ? 0 : data[0] % text.size();
  const tessera::TextSegment untrusted[] = {{text.substr(0, cut), false},
                                            {text.substr(cut), false}};
  TESSERA_CHECK(*tokenizer.EncodeSegments(untrusted) == plain);
  const tessera::TextSegment mixed[] = {{text.substr(0, cut), false}, {text.substr(cut), true}};
  const auto ids = *tokenizer.EncodeSegments(mixed);
  if (cut == 0) {
    TESSERA_CHECK(ids == *tokenizer.Encode(text, {.parse_added_tokens = true}));
  }
  return 0;
}
