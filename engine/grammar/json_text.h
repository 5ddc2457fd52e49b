// Automata of JSON's scalar values (RFC 8259).
//
// Every value has at least one spelling here, not always all of them: strings that are restricted
// have no \u escapes but those of control characters, numbers that are restricted have no exponent.
#ifndef TESSERA_ENGINE_GRAMMAR_JSON_TEXT_H_
#define TESSERA_ENGINE_GRAMMAR_JSON_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/grammar/automaton.h"

namespace tessera::grammar {

// One character of a JSON string in any spelling; a pair of surrogates is one.
Fragment JsonCharacter(Nfa* nfa);
// The JSON strings, with quotes, whose characters `decoded` accepts as UTF-8.
Dfa JsonStrings(const Dfa& decoded, BuildBudget* budget);
// All valid UTF-8.
Dfa AnyText(BuildBudget* budget);
// Texts of `min` to `max` code points; max < 0: no bound.
Dfa TextsOfLength(int64_t min, int64_t max, BuildBudget* budget);

// sign * 0.digits... as written: `whole` without leading, `fraction` without trailing zeros.
struct Decimal {
  bool negative = false;
  std::string whole = "0";
  std::string fraction;
  bool is_zero() const { return whole == "0" && fraction.empty(); }
};
// Nothing when it has more than a few hundred digits.
std::optional<Decimal> ReadDecimal(std::string_view number);
// Without exponent.
std::string DecimalText(const Decimal& value);

Dfa AnyNumber(BuildBudget* budget);
Dfa Integers(BuildBudget* budget);
// Numbers that are no integers.
Dfa Fractions(BuildBudget* budget);

enum class Relation { kLess, kAtMost, kEqual, kAtLeast, kGreater, kDiffers };
Dfa NumbersThat(Relation relation, const Decimal& bound, BuildBudget* budget);
// Multiples of `factor`, or (`multiple` false) all others. Nothing when the factor has too many
// digits.
std::optional<Dfa> Multiples(const Decimal& factor, bool multiple, BuildBudget* budget);

// Regular expression of a `format`; null: not known.
const char* FormatPattern(std::string_view format);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_JSON_TEXT_H_
