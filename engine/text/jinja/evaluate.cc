// Expressions: the second half of the interpreter.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

namespace {

// **value
absl::Status SpreadNamed(Budget* budget, const Value& value, Arguments* args) {
  if (!value.is_dict()) {
    return absl::InvalidArgumentError(Concat("'**' needs a dict, not '", value.type_name(), "'"));
  }
  for (const auto& [key, item] : value.dict().entries()) {
    RETURN_IF_ERROR(budget->Charge(kElementCost));
    if (!key.is_string()) return absl::InvalidArgumentError("'**' needs keys that are strings");
    for (const auto& [name, given] : args->named) {
      if (name == key.str()) {
        return absl::InvalidArgumentError(Concat("argument '", name, "' is given twice"));
      }
    }
    args->named.emplace_back(key.str(), item);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Value> Interpreter::Evaluate(const Expr& expr, Scope* scope) {
  absl::Status ready = budget_.Step();
  if (ready.ok()) ready = budget_.Enter();
  if (!ready.ok()) return Locate(ready, expr.line);
  absl::StatusOr<Value> value = Dispatch(expr, scope);
  budget_.Leave();
  if (!value.ok()) return Locate(value.status(), expr.line);
  return value;
}

absl::StatusOr<Value> Interpreter::Dispatch(const Expr& expr, Scope* scope) {
  switch (expr.kind) {
    case ExprKind::kConstant:
      return expr.constant;
    case ExprKind::kName:
      return Lookup(expr.name, scope);
    case ExprKind::kList:
    case ExprKind::kTuple:
      return EvaluateList(expr, scope);
    case ExprKind::kDict:
      return EvaluateDict(expr, scope);
    case ExprKind::kAttribute: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.args[0], scope));
      return GetAttribute(object, expr.name);
    }
    case ExprKind::kItem: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.args[0], scope));
      ASSIGN_OR_RETURN(const Value key, Evaluate(*expr.args[1], scope));
      return GetItem(&budget_, object, key);
    }
    case ExprKind::kSlice:
      return EvaluateSlice(expr, scope);
    case ExprKind::kCall:
      return EvaluateCall(expr, scope);
    case ExprKind::kSpread:
    case ExprKind::kSpreadNamed:
      break;  // read by EvaluateArguments
    case ExprKind::kFilter:
      return EvaluateFilter(expr, scope);
    case ExprKind::kTest:
      return EvaluateTest(expr, scope);
    case ExprKind::kNot: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.args[0], scope));
      return Value::Bool(!IsTrue(value));
    }
    case ExprKind::kNegate:
    case ExprKind::kPlus:
      return EvaluateSign(expr, scope);
    case ExprKind::kArithmetic: {
      ASSIGN_OR_RETURN(const Value left, Evaluate(*expr.args[0], scope));
      ASSIGN_OR_RETURN(const Value right, Evaluate(*expr.args[1], scope));
      return Arithmetic(&budget_, expr.name, left, right);
    }
    case ExprKind::kConcat:
      return EvaluateConcat(expr, scope);
    case ExprKind::kCompare:
      return EvaluateCompare(expr, scope);
    case ExprKind::kAnd:
    case ExprKind::kOr:
      return EvaluateLogic(expr, scope);
    case ExprKind::kConditional:
      return EvaluateConditional(expr, scope);
  }
  return absl::InternalError("unknown expression");
}

Value Interpreter::Lookup(const std::string& name, const Scope* scope) const {
  for (; scope != nullptr; scope = scope->parent) {
    for (const auto& [key, value] : scope->variables) {
      if (key == name) return value;
    }
  }
  if (const Value* value = variables_.Find(std::string_view(name))) return *value;
  if (const Value* value = functions_.Find(std::string_view(name))) return *value;
  return Value::MakeUndefined(Concat("'", name, "' is undefined"));
}

absl::StatusOr<Value> Interpreter::EvaluateList(const Expr& expr, Scope* scope) {
  std::vector<Value> items;
  items.reserve(expr.args.size());
  for (const ExprPtr& arg : expr.args) {
    ASSIGN_OR_RETURN(Value item, Evaluate(*arg, scope));
    items.push_back(std::move(item));
  }
  return NewList(&budget_, std::move(items), expr.kind == ExprKind::kTuple);
}

absl::StatusOr<Value> Interpreter::EvaluateDict(const Expr& expr, Scope* scope) {
  Dict dict;
  for (size_t i = 0; i < expr.args.size(); i += 2) {
    ASSIGN_OR_RETURN(Value key, Evaluate(*expr.args[i], scope));
    ASSIGN_OR_RETURN(Value value, Evaluate(*expr.args[i + 1], scope));
    if (!dict.Set(key, std::move(value))) {
      return absl::InvalidArgumentError(
          Concat("'", key.type_name(), "' cannot be the key of a dict"));
    }
  }
  return NewDict(&budget_, std::move(dict));
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value object, Evaluate(*expr.args[0], scope));
  std::optional<int64_t> bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (expr.args[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(const Value bound, Evaluate(*expr.args[i + 1], scope));
    if (bound.is_none()) continue;
    if (!bound.is_int() && !bound.is_bool()) {
      if (object.is_undefined()) return absl::InvalidArgumentError(object.undefined_reason());
      return Value::MakeUndefined(Concat("a slice needs integers, not '", bound.type_name(), "'"));
    }
    bounds[i] = bound.as_int();
  }
  return Slice(&budget_, object, {bounds[0], bounds[1], bounds[2]});
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expr& expr, Scope* scope) {
  Arguments args;
  Value spread_named;
  for (size_t i = 1; i < expr.args.size(); ++i) {
    const Expr& arg = *expr.args[i];
    const bool spreads = arg.kind == ExprKind::kSpread || arg.kind == ExprKind::kSpreadNamed;
    ASSIGN_OR_RETURN(Value value, Evaluate(spreads ? *arg.args[0] : arg, scope));
    if (arg.kind == ExprKind::kSpreadNamed) {
      spread_named = std::move(value);
    } else if (spreads) {
      ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(&budget_, value));
      for (Value& item : items) args.positional.push_back(std::move(item));
    } else {
      args.positional.push_back(std::move(value));
    }
  }
  for (const auto& [name, arg] : expr.named) {
    ASSIGN_OR_RETURN(Value value, Evaluate(*arg, scope));
    args.named.emplace_back(name, std::move(value));
  }
  if (spread_named.is_undefined()) return args;
  RETURN_IF_ERROR(SpreadNamed(&budget_, spread_named, &args));
  return args;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value callee, Evaluate(*expr.args[0], scope));
  ASSIGN_OR_RETURN(const Arguments args, EvaluateArguments(expr, scope));
  return Call(callee, args);
}

absl::StatusOr<Value> Interpreter::EvaluateFilter(const Expr& expr, Scope* scope) {
  Value input = block_text_;
  if (expr.args[0] != nullptr) {
    ASSIGN_OR_RETURN(input, Evaluate(*expr.args[0], scope));
  }
  ASSIGN_OR_RETURN(const Arguments args, EvaluateArguments(expr, scope));
  return ApplyFilter(&budget_, expr.name, input, args);
}

absl::StatusOr<Value> Interpreter::EvaluateTest(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value input, Evaluate(*expr.args[0], scope));
  ASSIGN_OR_RETURN(const Arguments args, EvaluateArguments(expr, scope));
  ASSIGN_OR_RETURN(const bool passes, ApplyTest(&budget_, expr.name, input, args));
  return Value::Bool(passes);
}

absl::StatusOr<Value> Interpreter::EvaluateConcat(const Expr& expr, Scope* scope) {
  TextBuilder builder;
  for (const ExprPtr& arg : expr.args) {
    ASSIGN_OR_RETURN(const Value part, Evaluate(*arg, scope));
    RETURN_IF_ERROR(AppendStr(&budget_, part, &builder));
  }
  return NewText(&budget_, std::move(builder).Build());
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.args[0], scope));
  for (size_t i = 0; i < expr.operators.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Evaluate(*expr.args[i + 1], scope));
    ASSIGN_OR_RETURN(const bool holds, CompareWith(&budget_, expr.operators[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvaluateLogic(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expr.args[0], scope));
  if (IsTrue(left) == (expr.kind == ExprKind::kOr)) return left;
  return Evaluate(*expr.args[1], scope);
}

absl::StatusOr<Value> Interpreter::EvaluateConditional(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value condition, Evaluate(*expr.args[1], scope));
  if (IsTrue(condition)) return Evaluate(*expr.args[0], scope);
  if (expr.args[2] != nullptr) return Evaluate(*expr.args[2], scope);
  return Value::MakeUndefined("the conditional expression has no else part");
}

absl::StatusOr<Value> Interpreter::EvaluateSign(const Expr& expr, Scope* scope) {
  ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.args[0], scope));
  if (expr.kind == ExprKind::kNegate) return Negate(value);
  if (value.is_undefined()) return absl::InvalidArgumentError(value.undefined_reason());
  if (!value.is_number()) {
    return absl::InvalidArgumentError(
        Concat("the sign does not work for '", value.type_name(), "'"));
  }
  return value.is_bool() ? Value::Int(value.as_int()) : value;
}

}  // namespace tessera::jinja
