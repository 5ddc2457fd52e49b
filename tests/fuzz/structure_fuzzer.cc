// Schemas, expressions and grammars of any bytes: compiled or refused within bounds; then a walk
// that the input chooses never meets an empty mask, and every token of a mask can follow.
#include <cstdint>
#include <string>

#include "kernels/core/bit_mask.h"
#include "kernels/core/status_macros.h"
#include "tests/engine/grammar/byte_tokens.h"

namespace tessera {
namespace {

void Walk(const Structure& structure, const TestVocabulary& vocabulary, std::string_view choices) {
  grammar::MatchSpace& space = *structure.space();
  grammar::PlaceId place = space.Start(false);
  for (const char choice : choices) {
    const auto& mask = space.Mask(place);
    if (space.overflowed()) return;
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id <= vocabulary.end_token(); ++id) {
      if (IsInMask(mask.tokens->words().data(), id)) allowed.push_back(id);
    }
    TESSERA_CHECK(!allowed.empty());
    const int32_t token = allowed[static_cast<uint8_t>(choice) % allowed.size()];
    if (token == vocabulary.end_token()) return;
    place = space.StepToken(place, token);
    if (space.overflowed()) return;
    TESSERA_CHECK(place != grammar::kNowhere);
    if (space.distance(place) < 256) {
      TESSERA_CHECK(static_cast<int64_t>(space.Witness(place).size()) == space.distance(place));
    }
  }
}

}  // namespace
}  // namespace tessera

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tessera::StructureSpec;
  static const tessera::TestVocabulary vocabulary{.words = {"\", \"", "true", "12", "{\"", "ab"},
                                                  .tags = {"<tool_call>", "</tool_call>"}};
  static const tessera::GrammarTokens tokens = vocabulary.Tokens();
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  StructureSpec spec;
  switch (data[0] % 4) {
    case 0:
      spec = {.kind = StructureSpec::Kind::kJsonSchema, .text = text};
      break;
    case 1:
      spec = {.kind = StructureSpec::Kind::kRegex, .text = text};
      break;
    case 2:
      spec = {.kind = StructureSpec::Kind::kGbnf, .text = text};
      break;
    default:
      spec = {.kind = StructureSpec::Kind::kTools,
              .tools = {{"f", text}, {"g", ""}},
              .format = tessera::ToolCallFormat::kHermes};
  }
  const auto structure = tessera::Structure::Compile(spec, tokens);
  if (structure.ok()) tessera::Walk(**structure, vocabulary, text.substr(0, 64));
  return 0;
}
