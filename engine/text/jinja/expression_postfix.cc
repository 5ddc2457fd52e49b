// What may follow a primary expression: attributes, subscripts, calls, filters and tests.
#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/text/jinja/expression_parser.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/parser.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

absl::StatusOr<ExprPtr> ExpressionParser::ParsePostfix(ExprPtr node) {
  while (true) {
    if (tokens_.IsOperator(".")) {
      ASSIGN_OR_RETURN(node, ParseAttribute(std::move(node)));
    } else if (tokens_.IsOperator("[")) {
      ASSIGN_OR_RETURN(node, ParseSubscript(std::move(node)));
    } else if (tokens_.IsOperator("(")) {
      ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFiltersAndTests(ExprPtr node) {
  while (true) {
    if (tokens_.AcceptOperator("|")) {
      ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
    } else if (tokens_.AcceptName("is")) {
      ASSIGN_OR_RETURN(node, ParseTest(std::move(node)));
    } else if (tokens_.IsOperator("(")) {
      ASSIGN_OR_RETURN(node, ParseCall(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseCall(ExprPtr node) {
  RETURN_IF_ERROR(CheckCallee(*node));
  ASSIGN_OR_RETURN(node, Wrap(ExprKind::kCall, tokens_.line(), std::move(node)));
  RETURN_IF_ERROR(ParseArguments(node.get()));
  return Finish(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseAttribute(ExprPtr node) {
  const int line = tokens_.line();
  tokens_.Advance();
  if (tokens_.Is(TokenKind::kInteger)) {
    ASSIGN_OR_RETURN(ExprPtr index, ParseNumber());
    return Wrap(ExprKind::kItem, line, std::move(node), std::move(index));
  }
  const std::string name = tokens_.current().text;
  RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "an attribute name"));
  ASSIGN_OR_RETURN(node, Wrap(ExprKind::kAttribute, line, std::move(node)));
  node->name = name;
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSlicePart() {
  if (tokens_.IsOperator(":") || tokens_.IsOperator("]")) return ExprPtr();
  return ParseExpression();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseSubscript(ExprPtr node) {
  const int line = tokens_.line();
  tokens_.Advance();
  if (tokens_.IsOperator("]")) return tokens_.Expected("a subscript");
  ASSIGN_OR_RETURN(ExprPtr first, ParseSlicePart());
  if (tokens_.AcceptOperator("]")) {
    return Wrap(ExprKind::kItem, line, std::move(node), std::move(first));
  }
  ExprPtr slice = NewNode(ExprKind::kSlice, line);
  slice->args.push_back(std::move(node));
  slice->args.push_back(std::move(first));
  for (int part = 0; part < 2; ++part) {
    ExprPtr bound;
    if (part == 0 || tokens_.IsOperator(":")) {
      RETURN_IF_ERROR(tokens_.ExpectOperator(":"));
      ASSIGN_OR_RETURN(bound, ParseSlicePart());
    }
    slice->args.push_back(std::move(bound));
  }
  RETURN_IF_ERROR(tokens_.ExpectOperator("]"));
  return Finish(std::move(slice));
}

absl::StatusOr<std::string> ExpressionParser::ParseDottedName() {
  std::string name = tokens_.current().text;
  RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "a name"));
  while (tokens_.AcceptOperator(".")) {
    name += "." + tokens_.current().text;
    RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "a name"));
  }
  return name;
}

// map, select and the like name a filter or a test by their first or second argument.
absl::Status ExpressionParser::CheckNamedFunction(const Expr& filter) {
  const bool by_attribute = filter.name == "selectattr" || filter.name == "rejectattr";
  const bool tests = by_attribute || filter.name == "select" || filter.name == "reject";
  const size_t index = by_attribute ? 2 : 1;
  if ((!tests && filter.name != "map") || filter.args.size() <= index) return absl::OkStatus();
  const Expr& name = *filter.args[index];
  if (name.kind != ExprKind::kConstant || !name.constant.is_string()) return absl::OkStatus();
  const std::string& text = name.constant.str();
  if (tests ? HasTest(text) : HasFilter(text)) return absl::OkStatus();
  return SyntaxError(filter.line,
                     Concat("there is no ", tests ? "test" : "filter", " '", text, "'"));
}

// What Python or jinja2 has and this interpreter has not: refused before a prompt needs it.
absl::Status ExpressionParser::CheckCallee(const Expr& callee) {
  static constexpr std::string_view kMethods[] = {"encode",       "format_map", "fromkeys",
                                                  "isidentifier", "maketrans",  "translate"};
  if (callee.kind == ExprKind::kAttribute &&
      std::find(std::begin(kMethods), std::end(kMethods), callee.name) != std::end(kMethods)) {
    return SyntaxError(callee.line, Concat("the method '", callee.name, "' is not supported"));
  }
  if (callee.kind == ExprKind::kName && callee.name == "lipsum") {
    return SyntaxError(callee.line, "the function 'lipsum' is not supported");
  }
  return absl::OkStatus();
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilter(ExprPtr node) {
  ExprPtr filter = NewNode(ExprKind::kFilter, tokens_.line());
  filter->args.push_back(std::move(node));
  ASSIGN_OR_RETURN(filter->name, ParseDottedName());
  if (!HasFilter(filter->name)) {
    return SyntaxError(filter->line, Concat("there is no filter '", filter->name, "'"));
  }
  if (tokens_.IsOperator("(")) RETURN_IF_ERROR(ParseArguments(filter.get()));
  RETURN_IF_ERROR(CheckNamedFunction(*filter));
  return Finish(std::move(filter));
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseFilters(ExprPtr input, bool first_without_pipe) {
  ExprPtr node = std::move(input);
  if (first_without_pipe) {
    ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
  }
  while (tokens_.AcceptOperator("|")) {
    ASSIGN_OR_RETURN(node, ParseFilter(std::move(node)));
  }
  return node;
}

bool ExpressionParser::AtTestArgument() const {
  switch (tokens_.current().kind) {
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    case TokenKind::kName:
      return !tokens_.IsName("else") && !tokens_.IsName("or") && !tokens_.IsName("and");
    default:
      return tokens_.IsOperator("[") || tokens_.IsOperator("{");
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::ParseTest(ExprPtr node) {
  const int line = tokens_.line();
  const bool negated = tokens_.AcceptName("not");
  ExprPtr test = NewNode(ExprKind::kTest, line);
  test->args.push_back(std::move(node));
  ASSIGN_OR_RETURN(test->name, ParseDottedName());
  if (!HasTest(test->name)) {
    return SyntaxError(line, Concat("there is no test '", test->name, "'"));
  }
  if (tokens_.IsOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(test.get()));
  } else if (AtTestArgument()) {
    if (tokens_.IsName("is")) return tokens_.Expected("no second test");
    ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->args.push_back(std::move(argument));
  }
  ASSIGN_OR_RETURN(test, Finish(std::move(test)));
  if (!negated) return test;
  return Wrap(ExprKind::kNot, line, std::move(test));
}

// One argument; whether no positional one may follow it.
absl::Status ExpressionParser::ParseArgument(Expr* call, bool* only_named) {
  const int line = tokens_.line();
  for (const bool named : {false, true}) {
    if (!tokens_.AcceptOperator(named ? "**" : "*")) continue;
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    ASSIGN_OR_RETURN(
        value, Wrap(named ? ExprKind::kSpreadNamed : ExprKind::kSpread, line, std::move(value)));
    call->args.push_back(std::move(value));
    *only_named = true;
    return absl::OkStatus();
  }
  const Token& next = tokens_.next();
  if (tokens_.Is(TokenKind::kName) && next.kind == TokenKind::kOperator && next.text == "=") {
    std::string name = tokens_.current().text;
    tokens_.Advance();
    tokens_.Advance();
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    call->named.emplace_back(std::move(name), std::move(value));
    *only_named = true;
    return absl::OkStatus();
  }
  if (*only_named) return tokens_.Expected("a named argument");
  ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
  call->args.push_back(std::move(value));
  return absl::OkStatus();
}

absl::Status ExpressionParser::ParseArguments(Expr* call) {
  tokens_.Advance();
  bool first = true;
  bool only_named = false;
  while (!tokens_.AcceptOperator(")")) {
    if (!first) {
      RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      if (tokens_.AcceptOperator(")")) break;
    }
    first = false;
    RETURN_IF_ERROR(ParseArgument(call, &only_named));
  }
  return absl::OkStatus();
}

}  // namespace tessera::jinja
