// Small vocabularies for tests of grammars.
#ifndef TESSERA_TESTS_ENGINE_GRAMMAR_BYTE_TOKENS_H_
#define TESSERA_TESTS_ENGINE_GRAMMAR_BYTE_TOKENS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/grammar/structure.h"

namespace tessera {

// Token i < 256 is byte i, then `words`, then `tags` (tokens that are no bytes, found by their
// text), last the one that ends a text.
struct TestVocabulary {
  std::vector<std::string> words;
  std::vector<std::string> tags;

  int32_t first_tag() const { return 256 + static_cast<int32_t>(words.size()); }
  int32_t end_token() const { return first_tag() + static_cast<int32_t>(tags.size()); }

  GrammarTokens Tokens() const {
    auto bytes = std::make_shared<std::vector<std::string>>();
    for (int32_t i = 0; i < 256; ++i) bytes->push_back(std::string(1, static_cast<char>(i)));
    bytes->insert(bytes->end(), words.begin(), words.end());
    grammar::TokenVocabulary::Options options{.vocab_size = end_token() + 1,
                                              .end_token_ids = {end_token()},
                                              .bytes = [bytes](int32_t id) {
                                                return static_cast<size_t>(id) < bytes->size()
                                                           ? std::string_view((*bytes)[id])
                                                           : std::string_view();
                                              }};
    GrammarTokens tokens;
    tokens.vocabulary = std::make_shared<const grammar::TokenVocabulary>(options);
    std::map<std::string, int32_t, std::less<>> ids;
    for (size_t i = 0; i < tags.size(); ++i) ids[tags[i]] = first_tag() + static_cast<int32_t>(i);
    tokens.find_token = [ids](std::string_view text) -> std::optional<int32_t> {
      const auto found = ids.find(text);
      if (found == ids.end()) return std::nullopt;
      return found->second;
    };
    return tokens;
  }

  std::string TextOf(int32_t token) const {
    if (token < 256) return std::string(1, static_cast<char>(token));
    if (token < first_tag()) return words[token - 256];
    return token < end_token() ? tags[token - first_tag()] : "";
  }
};

// Whether the structure accepts the text, byte by byte.
inline bool Accepts(const Structure& structure, std::string_view text) {
  grammar::MatchSpace& space = *structure.space();
  grammar::PlaceId place = space.Start(false);
  for (const char c : text) {
    place = space.StepToken(place, static_cast<uint8_t>(c));
    if (place == grammar::kNowhere) return false;
  }
  return space.accepting(place);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_GRAMMAR_BYTE_TOKENS_H_
