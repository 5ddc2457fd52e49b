#include <algorithm>
#include <compare>
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

bool IsSmallInt(const Value& value) { return value.is_int() || value.is_bool(); }

// -1, 0 or 1 for a decimal of any length against another.
int CompareDigits(std::string_view a, std::string_view b) {
  const bool a_negative = a.substr(0, 1) == "-";
  const bool b_negative = b.substr(0, 1) == "-";
  if (a_negative != b_negative) return a_negative ? -1 : 1;
  const int longer = a.size() == b.size() ? a.compare(b) : a.size() < b.size() ? -1 : 1;
  const int sign = longer < 0 ? -1 : longer > 0 ? 1 : 0;
  return a_negative ? -sign : sign;
}

std::string Digits(const Value& integer) {
  return integer.is_big() ? integer.as_big() : Concat(integer.as_int());
}

std::partial_ordering CompareNumbers(const Value& a, const Value& b) {
  if (IsSmallInt(a) && IsSmallInt(b)) return a.as_int() <=> b.as_int();
  if (a.is_float() || b.is_float()) return ToDouble(a) <=> ToDouble(b);
  return CompareDigits(Digits(a), Digits(b)) <=> 0;
}

absl::StatusOr<bool> EqualLists(Budget* budget, const List& a, const List& b) {
  if (a.tuple != b.tuple || a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equal(budget, a.items[i], b.items[i]));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDicts(Budget* budget, const Dict& a, const Dict& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.entries()) {
    RETURN_IF_ERROR(budget->Step());
    const Value* other = b.Find(key);
    if (other == nullptr) return false;
    ASSIGN_OR_RETURN(const bool equal, Equal(budget, value, *other));
    if (!equal) return false;
  }
  return true;
}

absl::Status StepBytes(Budget* budget, size_t bytes) {
  return budget->Step(1 + static_cast<int64_t>(bytes / 64));
}

}  // namespace

absl::StatusOr<bool> Equal(Budget* budget, const Value& a, const Value& b) {
  RETURN_IF_ERROR(budget->Step());
  if (a.is_number() && b.is_number()) return std::is_eq(CompareNumbers(a, b));
  if (a.is_string() && b.is_string()) {
    RETURN_IF_ERROR(StepBytes(budget, std::min(a.str().size(), b.str().size())));
    return a.str() == b.str();
  }
  if (a.is_list() && b.is_list()) {
    return a.SameAs(b) ? absl::StatusOr<bool>(true) : EqualLists(budget, a.list(), b.list());
  }
  if (a.is_dict() && b.is_dict()) {
    return a.SameAs(b) ? absl::StatusOr<bool>(true) : EqualDicts(budget, a.dict(), b.dict());
  }
  return a.SameAs(b);
}

absl::StatusOr<std::partial_ordering> Compare(Budget* budget, const Value& a, const Value& b) {
  RETURN_IF_ERROR(budget->Step());
  if (a.is_number() && b.is_number()) return CompareNumbers(a, b);
  if (a.is_string() && b.is_string()) {
    RETURN_IF_ERROR(StepBytes(budget, std::min(a.str().size(), b.str().size())));
    return std::partial_ordering(a.str() <=> b.str());
  }
  if (a.is_list() && b.is_list() && a.list().tuple == b.list().tuple) {
    const auto& left = a.list().items;
    const auto& right = b.list().items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      ASSIGN_OR_RETURN(const bool equal, Equal(budget, left[i], right[i]));
      if (!equal) return Compare(budget, left[i], right[i]);
    }
    return std::partial_ordering(left.size() <=> right.size());
  }
  for (const Value* value : {&a, &b}) {
    if (value->is_undefined()) return absl::InvalidArgumentError(value->undefined_reason());
  }
  return absl::InvalidArgumentError(
      Concat("'", a.type_name(), "' and '", b.type_name(), "' cannot be compared by order"));
}

absl::StatusOr<bool> Contains(Budget* budget, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      return absl::InvalidArgumentError(
          Concat("'in' a string needs a string, not '", item.type_name(), "'"));
    }
    RETURN_IF_ERROR(StepBytes(budget, container.str().size()));
    return container.str().find(item.str()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().Find(item) != nullptr;
  if (container.is_list()) {
    for (const Value& candidate : container.list().items) {
      ASSIGN_OR_RETURN(const bool equal, Equal(budget, candidate, item));
      if (equal) return true;
    }
    return false;
  }
  if (container.is_undefined()) return false;
  return absl::InvalidArgumentError(Concat("'in' does not work for '", container.type_name(), "'"));
}

absl::StatusOr<bool> CompareWith(Budget* budget, std::string_view op, const Value& a,
                                 const Value& b) {
  if (op == "==") return Equal(budget, a, b);
  if (op == "in") return Contains(budget, b, a);
  if (op == "!=" || op == "not in") {
    ASSIGN_OR_RETURN(const bool positive, CompareWith(budget, op == "!=" ? "==" : "in", a, b));
    return !positive;
  }
  ASSIGN_OR_RETURN(const std::partial_ordering order, Compare(budget, a, b));
  if (op == "<") return std::is_lt(order);
  if (op == "<=") return std::is_lteq(order);
  if (op == ">") return std::is_gt(order);
  return std::is_gteq(order);
}

}  // namespace tessera::jinja
