// Python's two ways to format: "%5.1f" % x and "{:>5.1f}".format(x).
#ifndef TESSERA_ENGINE_TEXT_JINJA_FORMAT_H_
#define TESSERA_ENGINE_TEXT_JINJA_FORMAT_H_

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

// str % value: flags, widths, precisions (digits or *) and the conversions s r d i u x X o e E f F
// g G c %; keys in parentheses read from a dict.
absl::StatusOr<Value> FormatPercent(Budget* budget, const Text& format, const Value& value);

// str.format: fields by position or name with .attribute and [item], !r and !s, and format
// specifications (not nested ones). Attributes are read as the template reads them.
absl::StatusOr<Value> FormatBraces(Budget* budget, const Text& format, const Arguments& args);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_FORMAT_H_
