// Python's operators on values. Every function that can take long takes the budget of the
// rendering; errors say what was wrong, the interpreter adds the line.
#ifndef TESSERA_ENGINE_TEXT_JINJA_OPERATORS_H_
#define TESSERA_ENGINE_TEXT_JINJA_OPERATORS_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

bool IsTrue(const Value& value);

// str(value) and repr(value), with provenance.
absl::Status AppendStr(Budget* budget, const Value& value, TextBuilder* out);
absl::Status AppendRepr(Budget* budget, const Value& value, TextBuilder* out);
absl::StatusOr<Text> Str(Budget* budget, const Value& value);

absl::StatusOr<bool> Equal(Budget* budget, const Value& a, const Value& b);
// Unordered only for NaN. An error for types that Python does not order.
absl::StatusOr<std::partial_ordering> Compare(Budget* budget, const Value& a, const Value& b);
// item in container
absl::StatusOr<bool> Contains(Budget* budget, const Value& container, const Value& item);
// One of == != < <= > >= in, not in.
absl::StatusOr<bool> CompareWith(Budget* budget, std::string_view op, const Value& a,
                                 const Value& b);

// One of + - * / // % **.
absl::StatusOr<Value> Arithmetic(Budget* budget, std::string_view op, const Value& a,
                                 const Value& b);
absl::StatusOr<Value> Negate(const Value& value);
// The value as a double; requires is_number().
double ToDouble(const Value& number);

// object.name: attributes and methods first, then items.
absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name);
// object[key]: items first, then attributes. Undefined if there is none.
absl::StatusOr<Value> GetItem(Budget* budget, const Value& object, const Value& key);

struct SliceBounds {
  std::optional<int64_t> start;
  std::optional<int64_t> stop;
  std::optional<int64_t> step;
};
absl::StatusOr<Value> Slice(Budget* budget, const Value& object, const SliceBounds& bounds);

// What a for loop runs over: items, keys of a dict, characters, nothing for undefined.
absl::StatusOr<std::vector<Value>> Iterate(Budget* budget, const Value& value);
absl::StatusOr<int64_t> Length(Budget* budget, const Value& value);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_OPERATORS_H_
