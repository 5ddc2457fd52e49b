// Values to JSON text exactly as Python's json module writes it; floats print as repr() does.
#ifndef TESSERA_ENGINE_TEXT_JINJA_JSON_WRITE_H_
#define TESSERA_ENGINE_TEXT_JINJA_JSON_WRITE_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/text.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

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

// The same for a caller without a template at hand: text without a limit.
absl::StatusOr<std::string> ToJsonString(const Value& value, const JsonStyle& style = {});

// Python's repr of a float.
std::string FloatRepr(double value);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_JSON_WRITE_H_
