// Regular expressions as JSON Schema and clients write them: ECMA-262's syntax over code points,
// without what is not regular or looks around.
//
// Understood: literals, `.`, classes with ranges and negation, \d \w \s (ASCII, as in ECMA-262; \s
// with Unicode's white space) and their complements, escapes (\n \t \r \f \v \0 \cX \xHH \uHHHH
// \u{H…} and escaped punctuation), groups (capturing, `(?:…)`, named), `|`, `* + ? {m} {m,} {m,n}`,
// also lazy (the language is the same), `^` and `$` anywhere. Refused with InvalidArgument, never
// ignored: look-around, back references, \b, \p, inline flags.
#ifndef TESSERA_ENGINE_GRAMMAR_REGEX_H_
#define TESSERA_ENGINE_GRAMMAR_REGEX_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/grammar/automaton.h"

namespace tessera::grammar {

enum class RegexMatch {
  kWhole,   // the text is a match
  kSearch,  // the text contains one, as JSON Schema's `pattern`
};

inline constexpr int32_t kMaxRegexDepth = 64;

// Accepts valid UTF-8 only. The budget's status is not part of the result: ask it.
absl::StatusOr<Dfa> CompileRegex(std::string_view pattern, RegexMatch match, BuildBudget* budget);

// Sorted and merged.
std::vector<CodePointRange> Normalised(std::vector<CodePointRange> ranges);
// Every code point that is not in `ranges`, which are normalised.
std::vector<CodePointRange> ComplementOf(const std::vector<CodePointRange>& ranges);

// Reads one UTF-8 character from the front of `text` and removes it; false when it is none.
bool TakeCodePoint(std::string_view* text, uint32_t* code_point);
// The next `digits` hexadecimal digits.
bool TakeHex(std::string_view* text, int32_t digits, uint32_t* value);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_REGEX_H_
