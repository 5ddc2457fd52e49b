// Tokens to a syntax tree.
#ifndef TESSERA_ENGINE_TEXT_JINJA_PARSER_H_
#define TESSERA_ENGINE_TEXT_JINJA_PARSER_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"

namespace tessera::jinja {

// Deepest nesting of expressions and of statements.
inline constexpr int kMaxSyntaxDepth = 100;

// INVALID_ARGUMENT "template line N: ..." for anything that is not a template.
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_PARSER_H_
