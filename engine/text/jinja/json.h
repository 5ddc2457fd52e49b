// JSON text to values and back, exactly as Python's json module does it: big integers stay exact,
// floats print as repr() does, the last of duplicate keys wins, order is kept.
#ifndef TESSERA_ENGINE_TEXT_JINJA_JSON_H_
#define TESSERA_ENGINE_TEXT_JINJA_JSON_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/text.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

// Every string and key of the result has the given provenance. INVALID_ARGUMENT names the byte
// offset and what was expected. NaN and Infinity are refused, as are lone surrogates and nesting
// deeper than kMaxJsonDepth.
inline constexpr int kMaxJsonDepth = 128;
absl::StatusOr<Value> ParseJson(std::string_view json,
                                Provenance provenance = Provenance::kUntrusted);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<int> indent;  // none: one line
  // Unset: ", " and ": " (without the space after the comma when indenting).
  std::optional<std::string> item_separator;
  std::optional<std::string> key_separator;
};

// json.dumps. String contents keep their provenance (quotes included), the rest is trusted.
absl::StatusOr<Text> ToJson(Budget* budget, const Value& value, const JsonStyle& style = {});

// The same for a caller without a template at hand: unlimited one-line text.
absl::StatusOr<std::string> ToJsonString(const Value& value);

// Python's repr of a float.
std::string FloatRepr(double value);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_JSON_H_
