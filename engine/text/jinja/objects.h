// The objects that a template can hold besides plain data: namespaces, functions, macros and the
// loop variable.
#ifndef TESSERA_ENGINE_TEXT_JINJA_OBJECTS_H_
#define TESSERA_ENGINE_TEXT_JINJA_OBJECTS_H_

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/scope.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

class Interpreter;

// namespace(a=1): the one thing a template may change. It may come to hold itself, so the
// interpreter empties all of them at its end.
class Namespace : public Object {
 public:
  std::string_view type_name() const override { return "namespace"; }
  Value GetAttribute(std::string_view name) const override;
  void Set(std::string_view name, Value value);
  void Clear() { members_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> members_;
};

class NativeFunction : public Callable {
 public:
  using Function = std::function<absl::StatusOr<Value>(Budget*, const Arguments&)>;
  explicit NativeFunction(Function function) : function_(std::move(function)) {}
  std::string_view type_name() const override { return "function"; }
  absl::StatusOr<Value> Call(Budget* budget, const Arguments& args) override {
    return function_(budget, args);
  }

 private:
  const Function function_;
};

class MacroObject : public Callable {
 public:
  MacroObject(Interpreter* interpreter, const Macro* macro, Scope* closure)
      : interpreter_(*interpreter),
        macro_(*macro),
        closure_(closure),
        type_name_("Macro '" + macro->name + "'") {}
  std::string_view type_name() const override { return type_name_; }
  Value GetAttribute(std::string_view name) const override;
  absl::StatusOr<Value> Call(Budget* budget, const Arguments& args) override;

 private:
  Interpreter& interpreter_;
  const Macro& macro_;
  Scope* const closure_;
  const std::string type_name_;
};

// The variable `loop`. Callable in a recursive loop.
class LoopObject : public Callable {
 public:
  struct Site {
    Interpreter* interpreter;
    const Stmt* stmt;
    Scope* scope;  // around the loop
    int depth;     // 0 for the outermost of a recursive loop
  };
  LoopObject(const Site& site, std::vector<Value> items);
  std::string_view type_name() const override { return "loop"; }
  bool callable() const override;
  int depth() const override { return depth_; }
  Value GetAttribute(std::string_view name) const override;
  absl::StatusOr<Value> Call(Budget* budget, const Arguments& args) override;

  size_t size() const { return items_.size(); }
  const Value& item(size_t index) const { return items_[index]; }
  void MoveTo(size_t index) { index_ = index; }

 private:
  Value Cycle() const;
  Value Changed() const;

  const Site site_;
  const std::vector<Value> items_;
  int depth_ = 0;
  size_t index_ = 0;
  // What loop.changed() was called with last: one tuple, or nothing yet.
  mutable std::shared_ptr<std::vector<Value>> last_;
};

// range, dict, cycler, joiner, raise_exception and strftime_now.
Dict MakeGlobalFunctions(const struct RenderOptions& options);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_OBJECTS_H_
