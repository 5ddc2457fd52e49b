#include "engine/text/jinja/expression_parser.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "engine/text/jinja/parser.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

constexpr size_t kMaxDigits = 4300;  // of an integer, as Python has it

}  // namespace

ExprPtr ExpressionParser::NewNode(ExprKind kind, int line) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::Finish(ExprPtr node) {
  int depth = 0;
  for (const ExprPtr& arg : node->args) depth = std::max(depth, arg ? arg->depth : 0);
  for (const auto& [name, arg] : node->named) depth = std::max(depth, arg->depth);
  node->depth = depth + 1;
  if (node->depth > kMaxSyntaxDepth) {
    return SyntaxError(node->line, "the expression nests too deeply");
  }
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::Wrap(ExprKind kind, int line, ExprPtr first,
                                               ExprPtr second) {
  ExprPtr node = NewNode(kind, line);
  node->args.push_back(std::move(first));
  if (second) node->args.push_back(std::move(second));
  return Finish(std::move(node));
}

bool ExpressionParser::AtTupleEnd() const {
  return tokens_.Is(TokenKind::kVariableEnd) || tokens_.Is(TokenKind::kBlockEnd) ||
         tokens_.IsOperator(")");
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTuple(bool with_condition) {
  const int line = tokens_.line();
  ASSIGN_OR_RETURN(ExprPtr first, ParseConditional(with_condition));
  if (!tokens_.IsOperator(",")) return first;
  ExprPtr node = NewNode(ExprKind::kTuple, line);
  node->args.push_back(std::move(first));
  while (tokens_.AcceptOperator(",")) {
    if (AtTupleEnd()) break;
    ASSIGN_OR_RETURN(ExprPtr item, ParseConditional(with_condition));
    node->args.push_back(std::move(item));
  }
  return Finish(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTarget(bool allow_attribute) {
  ExprPtr tuple = NewNode(ExprKind::kTuple, tokens_.line());
  bool is_tuple = false;
  do {
    if (!tokens_.Is(TokenKind::kName) && !tokens_.IsOperator("(")) break;
    ASSIGN_OR_RETURN(ExprPtr target, ParseSingleTarget(allow_attribute));
    tuple->args.push_back(std::move(target));
    is_tuple |= tokens_.IsOperator(",");
  } while (tokens_.AcceptOperator(","));
  if (tuple->args.empty()) return tokens_.Expected("a name to assign to");
  if (!is_tuple) return std::move(tuple->args[0]);
  return Finish(std::move(tuple));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSingleTarget(bool allow_attribute) {
  const int line = tokens_.line();
  if (tokens_.AcceptOperator("(")) {
    if (++nesting_ > kMaxSyntaxDepth) return SyntaxError(line, "the target nests too deeply");
    const absl::Cleanup leave = [this] { --nesting_; };
    ASSIGN_OR_RETURN(ExprPtr target, ParseTarget(allow_attribute));
    RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
    return target;
  }
  ExprPtr target = NewNode(ExprKind::kName, line);
  target->name = tokens_.current().text;
  tokens_.Advance();
  if (!allow_attribute || !tokens_.AcceptOperator(".")) return target;
  const std::string attribute = tokens_.current().text;
  RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "an attribute name"));
  ASSIGN_OR_RETURN(target, Wrap(ExprKind::kAttribute, line, std::move(target)));
  target->name = attribute;
  return target;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConditional(bool with_condition) {
  if (++nesting_ > kMaxSyntaxDepth) {
    return SyntaxError(tokens_.line(), "the expression nests too deeply");
  }
  const absl::Cleanup leave = [this] { --nesting_; };
  ASSIGN_OR_RETURN(ExprPtr value, ParseOr());
  while (with_condition && tokens_.IsName("if")) {
    const int line = tokens_.line();
    tokens_.Advance();
    ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (tokens_.AcceptName("else")) {
      ASSIGN_OR_RETURN(otherwise, ParseConditional(true));
    }
    ExprPtr node = NewNode(ExprKind::kConditional, line);
    node->args.push_back(std::move(value));
    node->args.push_back(std::move(condition));
    node->args.push_back(std::move(otherwise));
    ASSIGN_OR_RETURN(value, Finish(std::move(node)));
  }
  return value;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseOr() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseAnd());
  while (tokens_.IsName("or")) {
    const int line = tokens_.line();
    tokens_.Advance();
    ASSIGN_OR_RETURN(ExprPtr right, ParseAnd());
    ASSIGN_OR_RETURN(left, Wrap(ExprKind::kOr, line, std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAnd() {
  ASSIGN_OR_RETURN(ExprPtr left, ParseNot());
  while (tokens_.IsName("and")) {
    const int line = tokens_.line();
    tokens_.Advance();
    ASSIGN_OR_RETURN(ExprPtr right, ParseNot());
    ASSIGN_OR_RETURN(left, Wrap(ExprKind::kAnd, line, std::move(left), std::move(right)));
  }
  return left;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNot() {
  if (!tokens_.IsName("not")) return ParseCompare();
  if (++nesting_ > kMaxSyntaxDepth) {
    return SyntaxError(tokens_.line(), "the expression nests too deeply");
  }
  const absl::Cleanup leave = [this] { --nesting_; };
  const int line = tokens_.line();
  tokens_.Advance();
  ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  return Wrap(ExprKind::kNot, line, std::move(operand));
}

std::string ExpressionParser::AcceptComparison() {
  for (const std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
    if (tokens_.AcceptOperator(op)) return std::string(op);
  }
  if (tokens_.AcceptName("in")) return "in";
  const Token& next = tokens_.next();
  if (tokens_.IsName("not") && next.kind == TokenKind::kName && next.text == "in") {
    tokens_.Advance();
    tokens_.Advance();
    return "not in";
  }
  return "";
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCompare() {
  ExprPtr node = NewNode(ExprKind::kCompare, tokens_.line());
  ASSIGN_OR_RETURN(ExprPtr left, ParseSum());
  node->args.push_back(std::move(left));
  for (std::string op = AcceptComparison(); !op.empty(); op = AcceptComparison()) {
    node->operators.push_back(std::move(op));
    ASSIGN_OR_RETURN(ExprPtr right, ParseSum());
    node->args.push_back(std::move(right));
  }
  if (node->operators.empty()) return std::move(node->args[0]);
  return Finish(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseBinary(
    std::initializer_list<std::string_view> operators, Parse operand) {
  ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (true) {
    const auto op = std::find_if(operators.begin(), operators.end(), [this](std::string_view name) {
      return tokens_.IsOperator(name);
    });
    if (op == operators.end()) return left;
    const int line = tokens_.line();
    tokens_.Advance();
    ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    ASSIGN_OR_RETURN(left, Wrap(ExprKind::kArithmetic, line, std::move(left), std::move(right)));
    left->name = std::string(*op);
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSum() {
  return ParseBinary({"+", "-"}, &ExpressionParser::ParseConcat);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseConcat() {
  ExprPtr node = NewNode(ExprKind::kConcat, tokens_.line());
  do {
    ASSIGN_OR_RETURN(ExprPtr part, ParseProduct());
    node->args.push_back(std::move(part));
  } while (tokens_.AcceptOperator("~"));
  if (node->args.size() == 1) return std::move(node->args[0]);
  return Finish(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, &ExpressionParser::ParsePower);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePower() {
  return ParseBinary({"**"}, &ExpressionParser::ParseUnary);
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSigned(bool with_filters) {
  if (++nesting_ > kMaxSyntaxDepth) {
    return SyntaxError(tokens_.line(), "the expression nests too deeply");
  }
  const absl::Cleanup leave = [this] { --nesting_; };
  const int line = tokens_.line();
  ExprPtr node;
  if (tokens_.IsOperator("-") || tokens_.IsOperator("+")) {
    const ExprKind kind = tokens_.IsOperator("-") ? ExprKind::kNegate : ExprKind::kPlus;
    tokens_.Advance();
    ASSIGN_OR_RETURN(ExprPtr operand, ParseSigned(false));
    ASSIGN_OR_RETURN(node, Wrap(kind, line, std::move(operand)));
  } else {
    ASSIGN_OR_RETURN(node, ParsePrimary());
  }
  ASSIGN_OR_RETURN(node, ParsePostfix(std::move(node)));
  if (!with_filters) return node;
  return ParseFiltersAndTests(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParsePrimary() {
  const Token& token = tokens_.current();
  ExprPtr node = NewNode(ExprKind::kConstant, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      if (token.text == "true" || token.text == "True") {
        node->constant = Value::Bool(true);
      } else if (token.text == "false" || token.text == "False") {
        node->constant = Value::Bool(false);
      } else if (token.text == "none" || token.text == "None") {
        node->constant = Value::MakeNone();
      } else {
        node->kind = ExprKind::kName;
        node->name = token.text;
      }
      tokens_.Advance();
      return node;
    case TokenKind::kString: {
      std::string text;
      for (; tokens_.Is(TokenKind::kString); tokens_.Advance()) text += tokens_.current().text;
      node->constant = Value::String(std::move(text));
      return node;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return ParseNumber();
    default:
      break;
  }
  if (tokens_.IsOperator("(")) return ParseParenthesized();
  if (tokens_.IsOperator("[")) return ParseList();
  if (tokens_.IsOperator("{")) return ParseDict();
  return tokens_.Expected("an expression");
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseNumber() {
  const Token& token = tokens_.current();
  ExprPtr node = NewNode(ExprKind::kConstant, token.line);
  int64_t integer = 0;
  double number = 0;
  if (token.kind == TokenKind::kInteger && absl::SimpleAtoi(token.text, &integer)) {
    node->constant = Value::Int(integer);
  } else if (token.kind == TokenKind::kInteger && token.text.size() <= kMaxDigits) {
    const size_t digits = std::min(token.text.find_first_not_of('0'), token.text.size() - 1);
    node->constant = Value::Big(token.text.substr(digits));
  } else if (token.kind == TokenKind::kFloat && absl::SimpleAtod(token.text, &number)) {
    node->constant = Value::Float(number);
  } else {
    return SyntaxError(token.line, "the number is too large");
  }
  tokens_.Advance();
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseParenthesized() {
  const int line = tokens_.line();
  tokens_.Advance();
  if (tokens_.AcceptOperator(")")) return NewNode(ExprKind::kTuple, line);
  ASSIGN_OR_RETURN(ExprPtr node, ParseTuple());
  RETURN_IF_ERROR(tokens_.ExpectOperator(")"));
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseList() {
  ExprPtr node = NewNode(ExprKind::kList, tokens_.line());
  tokens_.Advance();
  while (!tokens_.AcceptOperator("]")) {
    if (!node->args.empty()) {
      RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.AcceptOperator("]")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    node->args.push_back(std::move(item));
  }
  return Finish(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseDict() {
  ExprPtr node = NewNode(ExprKind::kDict, tokens_.line());
  tokens_.Advance();
  while (!tokens_.AcceptOperator("}")) {
    if (!node->args.empty()) {
      RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.AcceptOperator("}")) break;
    }
    ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    node->args.push_back(std::move(key));
    node->args.push_back(std::move(value));
  }
  return Finish(std::move(node));
}

}  // namespace tessera::jinja
