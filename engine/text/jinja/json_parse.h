// JSON text to values exactly as Python's json module reads it: big integers stay exact, the last
// of duplicate keys wins, order is kept.
#ifndef TESSERA_ENGINE_TEXT_JINJA_JSON_PARSE_H_
#define TESSERA_ENGINE_TEXT_JINJA_JSON_PARSE_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/text.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

// Every string and key of the result has the given provenance. INVALID_ARGUMENT names the byte
// offset and what was expected. NaN and Infinity are refused, as are lone surrogates and nesting
// deeper than kMaxJsonDepth.
inline constexpr int kMaxJsonDepth = 128;
absl::StatusOr<Value> ParseJson(std::string_view json,
                                Provenance provenance = Provenance::kUntrusted);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_JSON_PARSE_H_
