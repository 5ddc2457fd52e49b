// Python's methods of str, and the tables behind HasMethod and BindMethod.
#ifndef TESSERA_ENGINE_TEXT_JINJA_STRING_METHODS_H_
#define TESSERA_ENGINE_TEXT_JINJA_STRING_METHODS_H_

#include <map>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

using Method = absl::StatusOr<Value> (*)(Budget*, const Value& self, const Arguments&);
using MethodTable = std::map<std::string_view, Method>;

// What makes another text of a text: strip, split, upper, format ...
const MethodTable& StringEdits();
// What asks about a text: find, startswith, isdigit ...
const MethodTable& StringQueries();

// The lines of a text without (or with) their ends, as str.splitlines finds them.
std::vector<Span> LinesOf(std::string_view bytes, bool keep_ends);

// The text in the middle, at the left or at the right of `width` characters.
struct Padding {
  int64_t width;
  char align;  // '<', '>' or '^' (as str.center), '=' is not meant here
  std::string fill = " ";
};
absl::StatusOr<Value> Pad(Budget* budget, const Text& text, const Padding& padding);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_STRING_METHODS_H_
