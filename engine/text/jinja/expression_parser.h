// The expression half of the parser, with Jinja's precedence.
#ifndef TESSERA_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
#define TESSERA_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/token_stream.h"

namespace tessera::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* tokens) : tokens_(*tokens) {}

  absl::StatusOr<ExprPtr> ParseExpression() { return ParseConditional(true); }
  // An expression without a trailing `if`, as the iterable of a for statement needs.
  absl::StatusOr<ExprPtr> ParseWithoutCondition() { return ParseConditional(false); }
  // One expression, or a tuple without parentheses ("a, b").
  absl::StatusOr<ExprPtr> ParseTuple(bool with_condition = true);
  // What stands left of "=" or "in": a name, a tuple of names, or (if allowed) namespace.attribute.
  absl::StatusOr<ExprPtr> ParseTarget(bool allow_attribute);
  // "name(args) | name ..." of a filter block or of a set block, applied to `input` (may be null).
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr input, bool first_without_pipe);

 private:
  using Parse = absl::StatusOr<ExprPtr> (ExpressionParser::*)();

  absl::StatusOr<ExprPtr> ParseSingleTarget(bool allow_attribute);
  absl::StatusOr<ExprPtr> ParseConditional(bool with_condition);
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseCompare();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParsePower();
  absl::StatusOr<ExprPtr> ParseUnary() { return ParseSigned(true); }
  absl::StatusOr<ExprPtr> ParseSigned(bool with_filters);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseNumber();
  absl::StatusOr<ExprPtr> ParseList();
  absl::StatusOr<ExprPtr> ParseDict();
  absl::StatusOr<ExprPtr> ParseParenthesized();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseFiltersAndTests(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseAttribute(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseSlicePart();
  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr node);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr node);
  static absl::Status CheckNamedFunction(const Expr& filter);
  static absl::Status CheckCallee(const Expr& callee);
  absl::Status ParseArguments(Expr* call);
  absl::Status ParseArgument(Expr* call, bool* only_named);
  absl::StatusOr<std::string> ParseDottedName();
  bool AtTupleEnd() const;
  bool AtTestArgument() const;
  std::string AcceptComparison();

  // left (operator right)*, the left-associative binary levels.
  absl::StatusOr<ExprPtr> ParseBinary(std::initializer_list<std::string_view> operators,
                                      Parse operand);
  // Sets the depth of a finished node; refuses one that nests too deeply.
  static absl::StatusOr<ExprPtr> Finish(ExprPtr node);
  static ExprPtr NewNode(ExprKind kind, int line);
  absl::StatusOr<ExprPtr> Wrap(ExprKind kind, int line, ExprPtr first, ExprPtr second = nullptr);

  TokenStream& tokens_;
  int nesting_ = 0;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
