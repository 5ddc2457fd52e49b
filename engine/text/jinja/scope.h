// Variable scopes of a rendering. Loops and macros open one, `if` does not.
#ifndef TESSERA_ENGINE_TEXT_JINJA_SCOPE_H_
#define TESSERA_ENGINE_TEXT_JINJA_SCOPE_H_

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/jinja/value.h"

namespace tessera::jinja {

struct Scope {
  Scope* parent = nullptr;
  // Names point into the syntax tree.
  std::vector<std::pair<std::string_view, Value>> variables;
  // A macro or a recursive loop refers to this scope, so it must live as long as the rendering.
  bool captured = false;

  void Set(std::string_view name, Value value) {
    for (auto& [key, slot] : variables) {
      if (key == name) {
        slot = std::move(value);
        return;
      }
    }
    variables.emplace_back(name, std::move(value));
  }
  void Capture() {
    for (Scope* scope = this; scope != nullptr && !scope->captured; scope = scope->parent) {
      scope->captured = true;
    }
  }
};

// Owns all scopes of a rendering, reuses those that nothing refers to.
class ScopePool {
 public:
  Scope* Acquire(Scope* parent) {
    if (free_.empty()) {
      scopes_.push_back(std::make_unique<Scope>());
      free_.push_back(scopes_.back().get());
    }
    Scope* scope = free_.back();
    free_.pop_back();
    scope->parent = parent;
    return scope;
  }
  void Release(Scope* scope) {
    if (scope->captured) return;
    scope->variables.clear();
    free_.push_back(scope);
  }

 private:
  std::vector<std::unique_ptr<Scope>> scopes_;
  std::vector<Scope*> free_;
};

// A scope for the length of a C++ block.
class ScopedScope {
 public:
  ScopedScope(ScopePool* pool, Scope* parent) : pool_(*pool), scope_(pool->Acquire(parent)) {}
  ~ScopedScope() { pool_.Release(scope_); }
  ScopedScope(const ScopedScope&) = delete;
  ScopedScope& operator=(const ScopedScope&) = delete;
  Scope* get() const { return scope_; }
  Scope* operator->() const { return scope_; }

 private:
  ScopePool& pool_;
  Scope* const scope_;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_SCOPE_H_
