// Streamed text is valid UTF-8 at every step and equals the text decoded at once. The input is a
// list of 16-bit token ids; bit 15 of an id makes it negative or one of the single bytes.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine/text/detokenizer.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace {

const std::shared_ptr<const tessera::Tokenizer>& SmallTokenizer() {
  static const auto* const tokenizer = [] {
    auto loaded = tessera::Tokenizer::Load(TESSERA_NANO_MODEL);
    TESSERA_CHECK(loaded.ok());
    return new std::shared_ptr<const tessera::Tokenizer>(*std::move(loaded));
  }();
  return *tokenizer;
}

int32_t TokenOf(uint16_t value) {
  if (value < 0x8000) return value % 2000;
  return value % 300 - 8;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 2 <= size; i += 2) {
    uint16_t value;
    std::memcpy(&value, data + i, sizeof value);
    ids.push_back(TokenOf(value));
  }
  for (const bool skip_special : {false, true}) {
    tessera::IncrementalDetokenizer detokenizer(SmallTokenizer(), {.skip_special = skip_special});
    std::string text;
    for (const int32_t id : ids) {
      std::string delta;
      detokenizer.Push(id, &delta);
      TESSERA_CHECK(tessera::IsValidUtf8(delta));
      TESSERA_CHECK(detokenizer.pending_bytes() <= 3);
      text += delta;
    }
    detokenizer.Finish(&text);
    TESSERA_CHECK(text == SmallTokenizer()->Decode(ids, skip_special));
  }
  return 0;
}
