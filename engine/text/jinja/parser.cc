#include "engine/text/jinja/parser.h"

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "engine/text/jinja/expression_parser.h"
#include "engine/text/jinja/token_stream.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

using EndTags = std::initializer_list<std::string_view>;

// Whether a macro's body reads `name` anywhere.
bool Reads(const Expr* expr, std::string_view name) {
  if (expr == nullptr) return false;
  if (expr->kind == ExprKind::kName && expr->name == name) return true;
  for (const ExprPtr& arg : expr->args) {
    if (Reads(arg.get(), name)) return true;
  }
  for (const auto& [key, arg] : expr->named) {
    if (Reads(arg.get(), name)) return true;
  }
  return false;
}

bool Reads(const Body& body, std::string_view name);

bool Reads(const Stmt& stmt, std::string_view name) {
  if (Reads(stmt.value.get(), name) || Reads(stmt.condition.get(), name)) return true;
  for (const auto& [condition, body] : stmt.branches) {
    if (Reads(condition.get(), name) || Reads(body, name)) return true;
  }
  for (const auto& [target, value] : stmt.assignments) {
    if (Reads(value.get(), name)) return true;
  }
  if (stmt.macro && Reads(stmt.macro->body, name)) return true;
  return Reads(stmt.body, name) || Reads(stmt.alternative, name);
}

bool Reads(const Body& body, std::string_view name) {
  for (const StmtPtr& stmt : body) {
    if (Reads(*stmt, name)) return true;
  }
  return false;
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(&tokens_) {}

  absl::StatusOr<Body> Run() {
    ASSIGN_OR_RETURN(Body body, ParseBody({}));
    if (!tokens_.Is(TokenKind::kEnd)) {
      return SyntaxError(tokens_.line(), Concat("unexpected tag '", tokens_.current().text, "'"));
    }
    return body;
  }

 private:
  // Stops in front of the name of an end tag (its "{%" is consumed), or at the end.
  absl::StatusOr<Body> ParseBody(EndTags end_tags) {
    if (++nesting_ > kMaxSyntaxDepth) {
      return SyntaxError(tokens_.line(), "statements nest too deeply");
    }
    const absl::Cleanup leave = [this] { --nesting_; };
    const int first_line = tokens_.line();
    Body body;
    while (!tokens_.Is(TokenKind::kEnd)) {
      if (tokens_.Is(TokenKind::kText)) {
        body.push_back(NewStmt(StmtKind::kText));
        body.back()->text = Value::String(tokens_.current().text);
        tokens_.Advance();
      } else if (tokens_.Is(TokenKind::kVariableBegin)) {
        ASSIGN_OR_RETURN(StmtPtr output, ParseOutput());
        body.push_back(std::move(output));
      } else {
        RETURN_IF_ERROR(tokens_.Expect(TokenKind::kBlockBegin, "'{%'"));
        if (!tokens_.Is(TokenKind::kName)) return tokens_.Expected("a tag name");
        if (AtTag(end_tags)) return body;
        ASSIGN_OR_RETURN(StmtPtr stmt, ParseStatement());
        body.push_back(std::move(stmt));
      }
    }
    if (end_tags.size() == 0) return body;
    return SyntaxError(first_line, Concat("the block has no '", *(end_tags.end() - 1), "'"));
  }

  bool AtTag(EndTags tags) const {
    for (const std::string_view tag : tags) {
      if (tokens_.IsName(tag)) return true;
    }
    return false;
  }

  StmtPtr NewStmt(StmtKind kind) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = tokens_.line();
    return stmt;
  }

  absl::Status ExpectBlockEnd() { return tokens_.Expect(TokenKind::kBlockEnd, "'%}'"); }

  // The body up to "{% end_tag %}", which is consumed.
  absl::StatusOr<Body> ParseBlockUntil(std::string_view end_tag) {
    RETURN_IF_ERROR(ExpectBlockEnd());
    ASSIGN_OR_RETURN(Body body, ParseBody({end_tag}));
    tokens_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return body;
  }

  absl::StatusOr<StmtPtr> ParseOutput() {
    StmtPtr stmt = NewStmt(StmtKind::kOutput);
    tokens_.Advance();
    ASSIGN_OR_RETURN(stmt->value, expressions_.ParseTuple());
    RETURN_IF_ERROR(tokens_.Expect(TokenKind::kVariableEnd, "'}}'"));
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseStatement() {
    const std::string tag = tokens_.current().text;
    if (tag == "if") return ParseIf();
    if (tag == "for") return ParseFor();
    if (tag == "set") return ParseSet();
    if (tag == "macro") return ParseMacro();
    if (tag == "call") return ParseCall();
    if (tag == "filter") return ParseFilterBlock();
    if (tag == "with") return ParseWith();
    if (tag == "generation") return ParseGeneration();
    if (tag == "break" || tag == "continue") return ParseLoopControl();
    return SyntaxError(tokens_.line(), Concat("unknown or misplaced tag '", tag, "'"));
  }

  absl::StatusOr<StmtPtr> ParseIf() {
    StmtPtr stmt = NewStmt(StmtKind::kIf);
    bool has_else = false;
    while (true) {
      ExprPtr condition;
      const bool is_else = tokens_.IsName("else");
      tokens_.Advance();
      if (is_else) {
        has_else = true;
      } else {
        ASSIGN_OR_RETURN(condition, expressions_.ParseTuple());
      }
      RETURN_IF_ERROR(ExpectBlockEnd());
      ASSIGN_OR_RETURN(Body body,
                       has_else ? ParseBody({"endif"}) : ParseBody({"elif", "else", "endif"}));
      stmt->branches.emplace_back(std::move(condition), std::move(body));
      if (tokens_.AcceptName("endif")) break;
    }
    RETURN_IF_ERROR(ExpectBlockEnd());
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseFor() {
    StmtPtr stmt = NewStmt(StmtKind::kFor);
    tokens_.Advance();
    ASSIGN_OR_RETURN(stmt->target, expressions_.ParseTarget(false));
    if (!tokens_.AcceptName("in")) return tokens_.Expected("'in'");
    ASSIGN_OR_RETURN(stmt->value, expressions_.ParseTuple(/*with_condition=*/false));
    if (tokens_.AcceptName("if")) {
      ASSIGN_OR_RETURN(stmt->condition, expressions_.ParseExpression());
    }
    stmt->recursive = tokens_.AcceptName("recursive");
    RETURN_IF_ERROR(ExpectBlockEnd());
    ++loop_depth_;
    ASSIGN_OR_RETURN(stmt->body, ParseBody({"else", "endfor"}));
    --loop_depth_;
    if (tokens_.AcceptName("else")) {
      RETURN_IF_ERROR(ExpectBlockEnd());
      ASSIGN_OR_RETURN(stmt->alternative, ParseBody({"endfor"}));
    }
    tokens_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseLoopControl() {
    StmtPtr stmt = NewStmt(tokens_.IsName("break") ? StmtKind::kBreak : StmtKind::kContinue);
    if (loop_depth_ == 0) {
      return SyntaxError(stmt->line, Concat("'", tokens_.current().text, "' outside a loop"));
    }
    tokens_.Advance();
    RETURN_IF_ERROR(ExpectBlockEnd());
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseSet() {
    StmtPtr stmt = NewStmt(StmtKind::kSet);
    tokens_.Advance();
    ASSIGN_OR_RETURN(stmt->target, expressions_.ParseTarget(true));
    if (tokens_.AcceptOperator("=")) {
      ASSIGN_OR_RETURN(stmt->value, expressions_.ParseTuple());
      RETURN_IF_ERROR(ExpectBlockEnd());
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    ASSIGN_OR_RETURN(stmt->value, expressions_.ParseFilters(nullptr, false));
    ASSIGN_OR_RETURN(stmt->body, ParseBlockUntil("endset"));
    return stmt;
  }

  absl::Status ParseParameters(Macro* macro) {
    RETURN_IF_ERROR(tokens_.ExpectOperator("("));
    while (!tokens_.AcceptOperator(")")) {
      if (!macro->parameters.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      macro->parameters.push_back(tokens_.current().text);
      RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "a parameter name"));
      if (tokens_.AcceptOperator("=")) {
        ASSIGN_OR_RETURN(ExprPtr value, expressions_.ParseExpression());
        macro->defaults.push_back(std::move(value));
      } else if (!macro->defaults.empty()) {
        return SyntaxError(tokens_.line(), "a parameter without default follows one with default");
      }
    }
    return absl::OkStatus();
  }

  absl::Status ParseMacroBody(Macro* macro, std::string_view end_tag) {
    const int loops = std::exchange(loop_depth_, 0);
    ASSIGN_OR_RETURN(macro->body, ParseBlockUntil(end_tag));
    loop_depth_ = loops;
    macro->uses_varargs = Reads(macro->body, "varargs");
    macro->uses_kwargs = Reads(macro->body, "kwargs");
    macro->uses_caller = Reads(macro->body, "caller");
    return absl::OkStatus();
  }

  absl::StatusOr<StmtPtr> ParseMacro() {
    StmtPtr stmt = NewStmt(StmtKind::kMacro);
    stmt->macro = std::make_unique<Macro>();
    tokens_.Advance();
    stmt->macro->name = tokens_.current().text;
    RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "the macro's name"));
    RETURN_IF_ERROR(ParseParameters(stmt->macro.get()));
    RETURN_IF_ERROR(ParseMacroBody(stmt->macro.get(), "endmacro"));
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseCall() {
    StmtPtr stmt = NewStmt(StmtKind::kCall);
    stmt->macro = std::make_unique<Macro>();
    stmt->macro->name = "caller";
    tokens_.Advance();
    if (tokens_.IsOperator("(")) RETURN_IF_ERROR(ParseParameters(stmt->macro.get()));
    ASSIGN_OR_RETURN(stmt->value, expressions_.ParseExpression());
    if (stmt->value->kind != ExprKind::kCall) return tokens_.Expected("a macro call");
    RETURN_IF_ERROR(ParseMacroBody(stmt->macro.get(), "endcall"));
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseFilterBlock() {
    StmtPtr stmt = NewStmt(StmtKind::kFilter);
    tokens_.Advance();
    ASSIGN_OR_RETURN(stmt->value, expressions_.ParseFilters(nullptr, true));
    ASSIGN_OR_RETURN(stmt->body, ParseBlockUntil("endfilter"));
    return stmt;
  }

  absl::StatusOr<StmtPtr> ParseWith() {
    StmtPtr stmt = NewStmt(StmtKind::kWith);
    tokens_.Advance();
    while (!tokens_.Is(TokenKind::kBlockEnd)) {
      if (!stmt->assignments.empty()) RETURN_IF_ERROR(tokens_.ExpectOperator(","));
      auto target = std::make_unique<Expr>();
      target->kind = ExprKind::kName;
      target->line = tokens_.line();
      target->name = tokens_.current().text;
      RETURN_IF_ERROR(tokens_.Expect(TokenKind::kName, "a name"));
      RETURN_IF_ERROR(tokens_.ExpectOperator("="));
      ASSIGN_OR_RETURN(ExprPtr value, expressions_.ParseExpression());
      stmt->assignments.emplace_back(std::move(target), std::move(value));
    }
    ASSIGN_OR_RETURN(stmt->body, ParseBlockUntil("endwith"));
    return stmt;
  }

  // Marks assistant text for training. As with transformers, who render it as a call, names that
  // are set inside stay inside, and it cannot be left by break or continue.
  absl::StatusOr<StmtPtr> ParseGeneration() {
    StmtPtr stmt = NewStmt(StmtKind::kGroup);
    tokens_.Advance();
    const int loops = std::exchange(loop_depth_, 0);
    ASSIGN_OR_RETURN(stmt->body, ParseBlockUntil("endgeneration"));
    loop_depth_ = loops;
    return stmt;
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int nesting_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(std::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace tessera::jinja
