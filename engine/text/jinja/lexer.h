// Template source to tokens, with Jinja's white-space control (trim_blocks and lstrip_blocks on,
// keep_trailing_newline off).
#ifndef TESSERA_ENGINE_TEXT_JINJA_LEXER_H_
#define TESSERA_ENGINE_TEXT_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::jinja {

enum class TokenKind {
  kText,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,  // decimal digits, whatever base the source used
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // string literals: unescaped
  int line;          // from 1
};

// The last token is always kEnd. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

absl::Status SyntaxError(int line, std::string_view message);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_LEXER_H_
