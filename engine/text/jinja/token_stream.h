// A cursor over the tokens of a template, shared by the expression and the statement parser.
#ifndef TESSERA_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
#define TESSERA_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/lexer.h"

namespace tessera::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  int line() const { return current().line; }
  void Advance() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }

  bool Is(TokenKind kind) const { return current().kind == kind; }
  bool IsOperator(std::string_view op) const {
    return Is(TokenKind::kOperator) && current().text == op;
  }
  bool IsName(std::string_view name) const {
    return Is(TokenKind::kName) && current().text == name;
  }
  bool AcceptOperator(std::string_view op) { return IsOperator(op) && (Advance(), true); }
  bool AcceptName(std::string_view name) { return IsName(name) && (Advance(), true); }

  absl::Status ExpectOperator(std::string_view op) {
    if (AcceptOperator(op)) return absl::OkStatus();
    return Expected(Concat("'", op, "'"));
  }
  absl::Status Expect(TokenKind kind, std::string_view what) {
    if (!Is(kind)) return Expected(what);
    Advance();
    return absl::OkStatus();
  }
  absl::Status Expected(std::string_view what) const {
    return SyntaxError(line(), Concat("expected ", what, ", found ", Describe()));
  }

 private:
  std::string Describe() const {
    switch (current().kind) {
      case TokenKind::kText:
        return "text";
      case TokenKind::kVariableBegin:
        return "'{{'";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kBlockBegin:
        return "'{%'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kString:
        return "a string";
      default:
        return Concat("'", current().text, "'");
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
