// Walks a syntax tree once. One interpreter renders one template, on one thread.
#ifndef TESSERA_ENGINE_TEXT_JINJA_INTERPRETER_H_
#define TESSERA_ENGINE_TEXT_JINJA_INTERPRETER_H_

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/objects.h"
#include "engine/text/jinja/scope.h"
#include "engine/text/jinja/template.h"
#include "engine/text/jinja/text.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

class Interpreter {
 public:
  // `variables` must outlive the interpreter.
  Interpreter(const Dict& variables, const RenderOptions& options);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  absl::StatusOr<Text> Run(const Body& body);

  // For the callables that a template makes.
  struct MacroCall {
    const Macro& macro;
    Scope* closure;
  };
  absl::StatusOr<Value> CallMacro(const MacroCall& call, const Arguments& args);
  absl::StatusOr<Value> CallLoop(const Stmt& loop, Scope* scope, int depth, const Value& iterable);

  // Values that one of the template's objects remembers; emptied at the end of the rendering, as
  // they may come to hold that object.
  std::shared_ptr<std::vector<Value>> NewMemory();

 private:
  enum class Flow { kNext, kBreak, kContinue };

  absl::StatusOr<Flow> Execute(const Body& body, Scope* scope);
  absl::StatusOr<Flow> Execute(const Stmt& stmt, Scope* scope);
  absl::StatusOr<Flow> Dispatch(const Stmt& stmt, Scope* scope);
  absl::StatusOr<Flow> ExecuteIf(const Stmt& stmt, Scope* scope);
  absl::StatusOr<Flow> ExecuteFor(const Stmt& stmt, Scope* scope);
  absl::StatusOr<Flow> ExecuteWith(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteCall(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteSetBlock(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteFilterBlock(const Stmt& stmt, Scope* scope);
  absl::Status ExecuteMacro(const Stmt& stmt, Scope* scope);
  absl::Status Output(const Value& value);
  absl::Status Assign(const Expr& target, const Value& value, Scope* scope);

  absl::Status RunLoop(const Stmt& stmt, Scope* scope, std::vector<Value> items, int depth);
  absl::Status KeepMatching(const Stmt& stmt, Scope* scope, std::vector<Value>* items);
  // The text that `body` prints.
  absl::StatusOr<Value> Capture(const Body& body, Scope* scope);
  absl::Status BindParameters(const MacroCall& call, const Arguments& args, Scope* scope);

  absl::StatusOr<Value> Evaluate(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> Dispatch(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateList(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateDict(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateSlice(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateCall(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateFilter(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateTest(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateConcat(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateCompare(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateLogic(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateConditional(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> EvaluateSign(const Expr& expr, Scope* scope);
  absl::StatusOr<Arguments> EvaluateArguments(const Expr& expr, Scope* scope);
  absl::StatusOr<Value> Call(const Value& callee, const Arguments& args);
  Value Lookup(const std::string& name, const Scope* scope) const;

  // Adds the line to the first error; later frames pass it on.
  absl::Status Locate(const absl::Status& status, int line);

  const Dict& variables_;
  const RenderOptions options_;
  Budget budget_;
  ScopePool scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<std::vector<Value>>> memories_;
  Dict functions_;
  TextBuilder* out_ = nullptr;
  Value block_text_;  // what a filter block or a filtered set block hands to its filters
  bool located_ = false;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_INTERPRETER_H_
