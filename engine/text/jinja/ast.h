// The syntax tree of a template. Nodes are plain data; the parser bounds their nesting, so that
// walking and destroying a tree cannot overflow the stack.
#ifndef TESSERA_ENGINE_TEXT_JINJA_AST_H_
#define TESSERA_ENGINE_TEXT_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/value.h"

namespace tessera::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

enum class ExprKind {
  kConstant,     // constant
  kName,         // name
  kList,         // args
  kTuple,        // args
  kDict,         // args: key, value, key, value ...
  kAttribute,    // args[0].name
  kItem,         // args[0][args[1]]
  kSlice,        // args[0][args[1]:args[2]:args[3]]; absent parts are null
  kCall,         // args[0](args[1..], named)
  kSpread,       // *args[0], an argument only
  kSpreadNamed,  // **args[0], an argument only
  kFilter,       // args[0] | name(args[1..], named); args[0] is null in a filter block
  kTest,         // args[0] is name(args[1..], named)
  kNot,          // args[0]
  kNegate,       // args[0]
  kPlus,         // args[0]
  kArithmetic,   // args[0] name args[1], name one of + - * / // % **
  kConcat,       // args[0] ~ args[1] ~ ...
  kCompare,      // args[0] operators[0] args[1] operators[1] args[2] ...
  kAnd,          // args[0], args[1]
  kOr,           // args[0], args[1]
  kConditional   // args[0] if args[1] else args[2]; args[2] may be null
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  int line = 0;
  int depth = 1;
  std::string name;
  Value constant;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> operators;
};

enum class StmtKind {
  kText,      // text
  kOutput,    // value
  kIf,        // branches
  kFor,       // target in value if condition: body, else: alternative
  kSet,       // target = value
  kSetBlock,  // target = body, filtered by value if there is one
  kMacro,     // macro
  kCall,      // macro (the caller), value (the call)
  kFilter,    // body filtered by value
  kWith,      // assignments, body
  kGroup,     // body in a scope of its own
  kBreak,
  kContinue
};

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  // The body reads these names, so surplus arguments are welcome.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Stmt {
  StmtKind kind = StmtKind::kText;
  int line = 0;
  Value text;
  ExprPtr target;  // kName, kAttribute of a namespace, or kTuple of names
  ExprPtr value;
  ExprPtr condition;
  bool recursive = false;
  std::vector<std::pair<ExprPtr, Body>> branches;  // a null condition is the else branch
  std::vector<std::pair<ExprPtr, ExprPtr>> assignments;
  Body body;
  Body alternative;
  std::unique_ptr<Macro> macro;
};

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_AST_H_
