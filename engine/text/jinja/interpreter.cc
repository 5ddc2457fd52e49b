#include "engine/text/jinja/interpreter.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

Interpreter::Interpreter(const Dict& variables, const RenderOptions& options)
    : variables_(variables),
      options_(options),
      budget_(options.limits),
      functions_(MakeGlobalFunctions(options)) {
  functions_.Set("namespace",
                 Value::FromObject(std::make_shared<NativeFunction>(
                     [this](Budget* budget, const Arguments& args) -> absl::StatusOr<Value> {
                       RETURN_IF_ERROR(
                           budget->Charge(kElementCost * (4 + static_cast<int64_t>(args.count()))));
                       auto made = std::make_shared<Namespace>();
                       if (!args.positional.empty() && args.positional[0].is_dict()) {
                         for (const auto& [key, value] : args.positional[0].dict().entries()) {
                           RETURN_IF_ERROR(budget->Charge(kElementCost));
                           if (key.is_string()) made->Set(key.str(), value);
                         }
                       }
                       for (const auto& [name, value] : args.named) made->Set(name, value);
                       namespaces_.push_back(made);
                       return Value::FromObject(std::move(made));
                     })));
}

Interpreter::~Interpreter() {
  for (const auto& made : namespaces_) made->Clear();
  for (const auto& memory : memories_) memory->clear();
}

std::shared_ptr<std::vector<Value>> Interpreter::NewMemory() {
  memories_.push_back(std::make_shared<std::vector<Value>>());
  return memories_.back();
}

absl::Status Interpreter::Locate(const absl::Status& status, int line) {
  if (std::exchange(located_, true)) return status;
  return absl::Status(status.code(), Concat("template line ", line, ": ", status.message()));
}

absl::StatusOr<Text> Interpreter::Run(const Body& body) {
  const ScopedScope scope(&scopes_, nullptr);
  TextBuilder out;
  out_ = &out;
  RETURN_IF_ERROR(Execute(body, scope.get()).status());
  return std::move(out).Build();
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Body& body, Scope* scope) {
  for (const StmtPtr& stmt : body) {
    ASSIGN_OR_RETURN(const Flow flow, Execute(*stmt, scope));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Execute(const Stmt& stmt, Scope* scope) {
  absl::Status ready = budget_.Step();
  if (ready.ok()) ready = budget_.Enter();
  if (!ready.ok()) return Locate(ready, stmt.line);
  absl::StatusOr<Flow> flow = Dispatch(stmt, scope);
  budget_.Leave();
  if (!flow.ok()) return Locate(flow.status(), stmt.line);
  return flow;
}

absl::StatusOr<Interpreter::Flow> Interpreter::Dispatch(const Stmt& stmt, Scope* scope) {
  absl::Status done;
  switch (stmt.kind) {
    case StmtKind::kText:
      done = Output(stmt.text);
      break;
    case StmtKind::kOutput: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.value, scope));
      done = Output(value);
      break;
    }
    case StmtKind::kIf:
      return ExecuteIf(stmt, scope);
    case StmtKind::kFor:
      return ExecuteFor(stmt, scope);
    case StmtKind::kSet: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.value, scope));
      done = Assign(*stmt.target, value, scope);
      break;
    }
    case StmtKind::kSetBlock:
      done = ExecuteSetBlock(stmt, scope);
      break;
    case StmtKind::kMacro:
      done = ExecuteMacro(stmt, scope);
      break;
    case StmtKind::kCall:
      done = ExecuteCall(stmt, scope);
      break;
    case StmtKind::kFilter:
      done = ExecuteFilterBlock(stmt, scope);
      break;
    case StmtKind::kWith:
      return ExecuteWith(stmt, scope);
    case StmtKind::kGroup: {
      const ScopedScope inner(&scopes_, scope);
      return Execute(stmt.body, inner.get());
    }
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  RETURN_IF_ERROR(done);
  return Flow::kNext;
}

absl::Status Interpreter::Output(const Value& value) {
  RETURN_IF_ERROR(AppendStr(&budget_, value, out_));
  if (static_cast<int64_t>(out_->size()) <= options_.limits.max_output_bytes) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError("the template writes too much text");
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteIf(const Stmt& stmt, Scope* scope) {
  for (const auto& [condition, body] : stmt.branches) {
    if (condition != nullptr) {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*condition, scope));
      if (!IsTrue(value)) continue;
    }
    return Execute(body, scope);
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteFor(const Stmt& stmt, Scope* scope) {
  ASSIGN_OR_RETURN(const Value iterable, Evaluate(*stmt.value, scope));
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(&budget_, iterable));
  RETURN_IF_ERROR(RunLoop(stmt, scope, std::move(items), 0));
  return Flow::kNext;
}

absl::Status Interpreter::KeepMatching(const Stmt& stmt, Scope* scope, std::vector<Value>* items) {
  std::vector<Value> kept;
  for (Value& item : *items) {
    const ScopedScope inner(&scopes_, scope);
    RETURN_IF_ERROR(Assign(*stmt.target, item, inner.get()));
    ASSIGN_OR_RETURN(const Value keep, Evaluate(*stmt.condition, inner.get()));
    if (IsTrue(keep)) kept.push_back(std::move(item));
  }
  *items = std::move(kept);
  return absl::OkStatus();
}

absl::Status Interpreter::RunLoop(const Stmt& stmt, Scope* scope, std::vector<Value> items,
                                  int depth) {
  if (stmt.condition != nullptr) RETURN_IF_ERROR(KeepMatching(stmt, scope, &items));
  if (items.empty()) {
    const ScopedScope inner(&scopes_, scope);
    return Execute(stmt.alternative, inner.get()).status();
  }
  if (stmt.recursive) scope->Capture();
  const auto loop =
      std::make_shared<LoopObject>(LoopObject::Site{this, &stmt, scope, depth}, std::move(items));
  if (loop->depth() > kMaxContainerDepth) {
    return absl::ResourceExhaustedError("the values of the loop nest too deeply");
  }
  for (size_t i = 0; i < loop->size(); ++i) {
    RETURN_IF_ERROR(budget_.Step());
    loop->MoveTo(i);
    const ScopedScope inner(&scopes_, scope);
    inner->Set("loop", Value::FromObject(loop));
    RETURN_IF_ERROR(Assign(*stmt.target, loop->item(i), inner.get()));
    ASSIGN_OR_RETURN(const Flow flow, Execute(stmt.body, inner.get()));
    if (flow == Flow::kBreak) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecuteWith(const Stmt& stmt, Scope* scope) {
  const ScopedScope inner(&scopes_, scope);
  for (const auto& [target, expr] : stmt.assignments) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*expr, scope));
    inner->Set(target->name, value);
  }
  return Execute(stmt.body, inner.get());
}

absl::Status Interpreter::Assign(const Expr& target, const Value& value, Scope* scope) {
  if (target.kind == ExprKind::kName) {
    scope->Set(target.name, value);
    return absl::OkStatus();
  }
  if (target.kind == ExprKind::kAttribute) {
    const Value object = Lookup(target.args[0]->name, scope);
    auto* space = object.is_object() ? dynamic_cast<Namespace*>(object.object().get()) : nullptr;
    if (space == nullptr) {
      return absl::InvalidArgumentError(Concat("'", target.args[0]->name, "' is no namespace, so '",
                                               target.name, "' cannot be assigned"));
    }
    RETURN_IF_ERROR(budget_.Charge(kElementCost));
    space->Set(target.name, value);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(&budget_, value));
  if (items.size() != target.args.size()) {
    return absl::InvalidArgumentError(
        Concat("cannot unpack ", items.size(), " values into ", target.args.size(), " names"));
  }
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(Assign(*target.args[i], items[i], scope));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Capture(const Body& body, Scope* scope) {
  TextBuilder captured;
  TextBuilder* const outer = std::exchange(out_, &captured);
  const absl::Status status = Execute(body, scope).status();
  out_ = outer;
  RETURN_IF_ERROR(status);
  return NewText(&budget_, std::move(captured).Build());
}

absl::Status Interpreter::ExecuteSetBlock(const Stmt& stmt, Scope* scope) {
  const ScopedScope inner(&scopes_, scope);
  ASSIGN_OR_RETURN(Value value, Capture(stmt.body, inner.get()));
  if (stmt.value != nullptr) {
    block_text_ = value;
    ASSIGN_OR_RETURN(value, Evaluate(*stmt.value, scope));
  }
  return Assign(*stmt.target, value, scope);
}

absl::Status Interpreter::ExecuteFilterBlock(const Stmt& stmt, Scope* scope) {
  const ScopedScope inner(&scopes_, scope);
  ASSIGN_OR_RETURN(block_text_, Capture(stmt.body, inner.get()));
  ASSIGN_OR_RETURN(const Value value, Evaluate(*stmt.value, scope));
  return Output(value);
}

absl::Status Interpreter::ExecuteMacro(const Stmt& stmt, Scope* scope) {
  RETURN_IF_ERROR(budget_.Charge(4 * kElementCost));
  scope->Capture();
  scope->Set(stmt.macro->name,
             Value::FromObject(std::make_shared<MacroObject>(this, stmt.macro.get(), scope)));
  return absl::OkStatus();
}

absl::Status Interpreter::ExecuteCall(const Stmt& stmt, Scope* scope) {
  const Expr& call = *stmt.value;
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*call.args[0], scope));
  ASSIGN_OR_RETURN(Arguments args, EvaluateArguments(call, scope));
  RETURN_IF_ERROR(budget_.Charge(4 * kElementCost));
  scope->Capture();
  args.named.emplace_back(
      "caller", Value::FromObject(std::make_shared<MacroObject>(this, stmt.macro.get(), scope)));
  ASSIGN_OR_RETURN(const Value value, Call(callee, args));
  return Output(value);
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, const Arguments& args) {
  if (callee.is_undefined()) {
    return absl::InvalidArgumentError(
        Concat(callee.undefined_reason(), ", so it cannot be called"));
  }
  auto* callable = callee.is_object() ? dynamic_cast<Callable*>(callee.object().get()) : nullptr;
  if (callable == nullptr) {
    return absl::InvalidArgumentError(
        Concat("a value of type '", callee.type_name(), "' cannot be called"));
  }
  return callable->Call(&budget_, args);
}

absl::Status Interpreter::BindParameters(const MacroCall& call, const Arguments& args,
                                         Scope* scope) {
  const Macro& macro = call.macro;
  const size_t first_default = macro.parameters.size() - macro.defaults.size();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const std::string& name = macro.parameters[i];
    Value value = Value::MakeUndefined(Concat("parameter '", name, "' was not provided"));
    if (const Value* given = args.Find(i, name)) {
      value = *given;
    } else if (i >= first_default) {
      ASSIGN_OR_RETURN(value, Evaluate(*macro.defaults[i - first_default], scope));
    }
    scope->Set(name, std::move(value));
  }
  Dict extra;
  for (const auto& [name, value] : args.named) {
    const auto& known = macro.parameters;
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    if (name == "caller" && macro.uses_caller) {
      scope->Set("caller", value);
    } else if (macro.uses_kwargs) {
      extra.Set(name, value);
    } else {
      return absl::InvalidArgumentError(
          Concat("macro '", macro.name, "' has no parameter '", name, "'"));
    }
  }
  if (macro.uses_kwargs) {
    ASSIGN_OR_RETURN(Value kwargs, NewDict(&budget_, std::move(extra)));
    scope->Set("kwargs", std::move(kwargs));
  }
  const size_t taken = std::min(args.positional.size(), macro.parameters.size());
  if (macro.uses_varargs) {
    std::vector<Value> rest(args.positional.begin() + static_cast<std::ptrdiff_t>(taken),
                            args.positional.end());
    ASSIGN_OR_RETURN(Value varargs, NewList(&budget_, std::move(rest), /*tuple=*/true));
    scope->Set("varargs", std::move(varargs));
  } else if (args.positional.size() > taken) {
    return absl::InvalidArgumentError(Concat("macro '", macro.name, "' takes ", taken,
                                             " arguments, not ", args.positional.size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::CallMacro(const MacroCall& call, const Arguments& args) {
  const ScopedScope scope(&scopes_, call.closure);
  RETURN_IF_ERROR(BindParameters(call, args, scope.get()));
  return Capture(call.macro.body, scope.get());
}

absl::StatusOr<Value> Interpreter::CallLoop(const Stmt& loop, Scope* scope, int depth,
                                            const Value& iterable) {
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(&budget_, iterable));
  TextBuilder captured;
  TextBuilder* const outer = std::exchange(out_, &captured);
  const absl::Status status = RunLoop(loop, scope, std::move(items), depth);
  out_ = outer;
  RETURN_IF_ERROR(status);
  return NewText(&budget_, std::move(captured).Build());
}

}  // namespace tessera::jinja
