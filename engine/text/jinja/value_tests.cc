#include <cmath>
#include <cstdint>
#include <set>
#include <string>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

using TypeTest = bool (*)(const Value&);

bool IsIterable(const Value& v) {
  return v.is_undefined() || v.is_string() || v.is_list() || v.is_dict();
}

const std::map<std::string_view, TypeTest>& TypeTests() {
  static const auto* const kTests = new std::map<std::string_view, TypeTest>{
      {"defined", [](const Value& v) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v) { return v.is_undefined(); }},
      {"none", [](const Value& v) { return v.is_none(); }},
      {"boolean", [](const Value& v) { return v.is_bool(); }},
      {"true", [](const Value& v) { return v.is_bool() && v.as_bool(); }},
      {"false", [](const Value& v) { return v.is_bool() && !v.as_bool(); }},
      {"integer", [](const Value& v) { return v.is_int() || v.is_big(); }},
      {"float", [](const Value& v) { return v.is_float(); }},
      {"number", [](const Value& v) { return v.is_number(); }},
      {"string", [](const Value& v) { return v.is_string(); }},
      {"mapping", [](const Value& v) { return v.is_dict(); }},
      {"sequence", IsIterable},
      {"iterable", IsIterable},
      // jinja2's Undefined has a method to call, which fails.
      {"callable",
       [](const Value& v) {
         return v.is_undefined() || (v.is_object() && v.object()->callable());
       }},
  };
  return *kTests;
}

// The comparison operator behind a test's name; empty if there is none.
std::string_view ComparisonOf(std::string_view name) {
  static const auto* const kComparisons = new std::map<std::string_view, std::string_view>{
      {"eq", "=="},         {"==", "=="}, {"equalto", "=="}, {"ne", "!="},
      {"!=", "!="},         {"lt", "<"},  {"<", "<"},        {"lessthan", "<"},
      {"le", "<="},         {"<=", "<="}, {"gt", ">"},       {">", ">"},
      {"greaterthan", ">"}, {"ge", ">="}, {">=", ">="},      {"in", "in"},
  };
  const auto it = kComparisons->find(name);
  return it == kComparisons->end() ? std::string_view() : it->second;
}

// input % divisor == expected.
absl::StatusOr<bool> HasRemainder(Budget* budget, const Value& input, const Value& divisor,
                                  int64_t expected) {
  ASSIGN_OR_RETURN(const Value remainder, Arithmetic(budget, "%", input, divisor));
  return remainder.is_number() && ToDouble(remainder) == static_cast<double>(expected);
}

absl::StatusOr<bool> HasOneCase(Budget* budget, std::string_view name, const Value& input) {
  ASSIGN_OR_RETURN(Text text, Str(budget, input));
  const Value method =
      BindMethod(Value::FromText(std::move(text)), name == "upper" ? "isupper" : "islower");
  ASSIGN_OR_RETURN(const Value result, static_cast<Callable&>(*method.object()).Call(budget, {}));
  return IsTrue(result);
}

absl::StatusOr<bool> RunTest(Budget* budget, std::string_view name, const Value& input,
                             const Arguments& args) {
  if (const auto it = TypeTests().find(name); it != TypeTests().end()) return it->second(input);
  if (name == "odd" || name == "even") {  // 2.5 is neither
    return HasRemainder(budget, input, Value::Int(2), name == "odd" ? 1 : 0);
  }
  if (name == "upper" || name == "lower") return HasOneCase(budget, name, input);
  if (name == "escaped") return false;
  if (!HasTest(name)) return absl::InvalidArgumentError("there is no such test");
  const std::string_view comparison = ComparisonOf(name);
  if (name == "filter" || name == "test") {
    if (!input.is_string()) return false;
    if (name == "test") return HasTest(input.str());
    return HasFilter(input.str());
  }
  if (args.positional.size() != 1) return absl::InvalidArgumentError("the test needs one argument");
  const Value& other = args.positional[0];
  if (name == "sameas") return input.SameAs(other);
  if (name == "divisibleby") return HasRemainder(budget, input, other, 0);
  return CompareWith(budget, comparison, input, other);
}

}  // namespace

bool HasTest(std::string_view name) {
  static const auto* const kOthers = new std::set<std::string_view>{
      "divisibleby", "escaped", "even", "filter", "lower", "odd", "sameas", "test", "upper"};
  return TypeTests().contains(name) || !ComparisonOf(name).empty() || kOthers->contains(name);
}

absl::StatusOr<bool> ApplyTest(Budget* budget, std::string_view name, const Value& input,
                               const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  absl::StatusOr<bool> result = RunTest(budget, name, input, args);
  if (result.ok() || !absl::IsInvalidArgument(result.status())) return result;
  return absl::InvalidArgumentError(Concat("test '", name, "': ", result.status().message()));
}

}  // namespace tessera::jinja
