// Grammars in the GBNF dialect: EBNF rules `name ::= …` over code points.
//
// Understood: literals with \n \r \t \" \\ \xHH \uHHHH \UHHHHHHHH, classes `[a-z]` and `[^…]`, `.`
// (any code point), groups, `|`, `* + ? {m} {m,} {m,n}`, `#` comments, token terminals `<text>` and
// `<[id]>`. The rule "root" is the whole. Left recursion is refused.
#ifndef TESSERA_ENGINE_GRAMMAR_GBNF_H_
#define TESSERA_ENGINE_GRAMMAR_GBNF_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/grammar/grammar.h"

namespace tessera::grammar {

// The id of a token that is no bytes, by its text or by the id as text; nothing: there is none.
using TokenLookup = std::function<std::optional<int32_t>(std::string_view)>;

// The root rule.
absl::StatusOr<RuleId> ReadGbnf(std::string_view text, const TokenLookup& find_token,
                                GrammarBuilder* builder);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_GBNF_H_
