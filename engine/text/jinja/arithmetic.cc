#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

absl::Status Overflow() {
  return absl::InvalidArgumentError("an integer computation exceeds 64 bits");
}

absl::Status Unsupported(std::string_view op, const Value& a, const Value& b) {
  for (const Value* value : {&a, &b}) {
    if (value->is_undefined()) return absl::InvalidArgumentError(value->undefined_reason());
  }
  return absl::InvalidArgumentError(Concat("operator ", op, " does not work for '", a.type_name(),
                                           "' and '", b.type_name(), "'"));
}

absl::StatusOr<Value> IntegerPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return absl::InvalidArgumentError("zero to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  if (base == 0 || base == 1) return Value::Int(exponent == 0 ? 1 : base);
  if (base == -1) return Value::Int(exponent % 2 == 0 ? 1 : -1);
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) return Overflow();
  }
  return Value::Int(result);
}

int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return (a % b != 0 && ((a < 0) != (b < 0))) ? quotient - 1 : quotient;
}

absl::StatusOr<Value> IntegerArithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+")
    return __builtin_add_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow())
                                                 : Value::Int(result);
  if (op == "-")
    return __builtin_sub_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow())
                                                 : Value::Int(result);
  if (op == "*")
    return __builtin_mul_overflow(a, b, &result) ? absl::StatusOr<Value>(Overflow())
                                                 : Value::Int(result);
  if (op == "**") return IntegerPower(a, b);
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  if (op == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {
    if (op == "%") return Value::Int(0);
    return a == std::numeric_limits<int64_t>::min() ? absl::StatusOr<Value>(Overflow())
                                                    : Value::Int(-a);
  }
  if (op == "//") return Value::Int(FloorDivide(a, b));
  const int64_t remainder = a % b;
  return Value::Int(remainder != 0 && ((remainder < 0) != (b < 0)) ? remainder + b : remainder);
}

absl::StatusOr<Value> FloatArithmetic(std::string_view op, double a, double b) {
  if (op == "+") return Value::Float(a + b);
  if (op == "-") return Value::Float(a - b);
  if (op == "*") return Value::Float(a * b);
  if (op == "**") {
    if (a == 0 && b < 0) return absl::InvalidArgumentError("zero to a negative power");
    if (a < 0 && b != std::floor(b)) {
      return absl::InvalidArgumentError("a fractional power of a negative number");
    }
    return Value::Float(std::pow(a, b));
  }
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  if (op == "/") return Value::Float(a / b);
  double remainder = std::fmod(a, b);
  if (remainder == 0) {
    remainder = std::copysign(0.0, b);
  } else if ((remainder < 0) != (b < 0)) {
    remainder += b;
  }
  if (op == "%") return Value::Float(remainder);
  return Value::Float(std::floor((a - remainder) / b + 0.5));
}

absl::StatusOr<Value> Repeat(Budget* budget, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  int64_t cost = 0;
  const int64_t unit = value.is_string()
                           ? static_cast<int64_t>(value.str().size())
                           : kElementCost * static_cast<int64_t>(value.list().items.size());
  if (__builtin_mul_overflow(unit, count, &cost)) cost = std::numeric_limits<int64_t>::max();
  RETURN_IF_ERROR(budget->Charge(cost));
  if (unit == 0) count = 0;
  if (value.is_string()) {
    TextBuilder builder;
    for (int64_t i = 0; i < count; ++i) builder.Append(value.text());
    return Value::FromText(std::move(builder).Build());
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < count; ++i) {
    items.insert(items.end(), value.list().items.begin(), value.list().items.end());
  }
  return NewList(budget, std::move(items), value.list().tuple);
}

absl::StatusOr<Value> Add(Budget* budget, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(a.str().size() + b.str().size())));
    TextBuilder builder;
    builder.Append(a.text());
    builder.Append(b.text());
    return NewText(budget, std::move(builder).Build());
  }
  if (a.is_list() && b.is_list() && a.list().tuple == b.list().tuple) {
    const int64_t count = static_cast<int64_t>(a.list().items.size() + b.list().items.size());
    RETURN_IF_ERROR(budget->Charge(kElementCost * count));
    std::vector<Value> items = a.list().items;
    items.insert(items.end(), b.list().items.begin(), b.list().items.end());
    return NewList(budget, std::move(items), a.list().tuple);
  }
  return Unsupported("+", a, b);
}

// digits % modulus, as `is divisibleby` and `is odd` need it; the modulus is at most kMaxModulus.
constexpr int64_t kMaxModulus = 1'000'000'000'000'000'000;
Value BigModulo(std::string_view digits, int64_t modulus) {
  const bool negative = digits[0] == '-';
  if (negative) digits.remove_prefix(1);
  uint64_t remainder = 0;
  const auto divisor = static_cast<uint64_t>(modulus);
  for (const char digit : digits) {
    remainder = (remainder * 10 + static_cast<uint64_t>(digit - '0')) % divisor;
  }
  if (negative && remainder != 0) remainder = divisor - remainder;
  return Value::Int(static_cast<int64_t>(remainder));
}

bool IsRepeatable(const Value& value) { return value.is_string() || value.is_list(); }
bool IsSmallInt(const Value& value) { return value.is_int() || value.is_bool(); }

}  // namespace

double ToDouble(const Value& number) {
  if (number.is_float()) return number.as_float();
  if (number.is_big()) return std::strtod(number.as_big().c_str(), nullptr);
  return static_cast<double>(number.as_int());
}

absl::StatusOr<Value> Negate(const Value& value) {
  if (value.is_float()) return Value::Float(-value.as_float());
  if (IsSmallInt(value)) return IntegerArithmetic("-", 0, value.as_int());
  if (value.is_big()) {
    const std::string& digits = value.as_big();
    return Value::Big(digits[0] == '-' ? digits.substr(1) : "-" + digits);
  }
  if (value.is_undefined()) return absl::InvalidArgumentError(value.undefined_reason());
  return absl::InvalidArgumentError(Concat("the sign does not work for '", value.type_name(), "'"));
}

absl::StatusOr<Value> Arithmetic(Budget* budget, std::string_view op, const Value& a,
                                 const Value& b) {
  if (IsSmallInt(a) && IsSmallInt(b)) return IntegerArithmetic(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) {
    if (a.is_float() || b.is_float()) return FloatArithmetic(op, ToDouble(a), ToDouble(b));
    if (op == "%" && IsSmallInt(b) && b.as_int() > 0 && b.as_int() <= kMaxModulus) {
      return BigModulo(a.as_big(), b.as_int());
    }
    return Overflow();
  }
  if (op == "+") return Add(budget, a, b);
  if (op == "*" && IsRepeatable(a) && IsSmallInt(b)) return Repeat(budget, a, b.as_int());
  if (op == "*" && IsRepeatable(b) && IsSmallInt(a)) return Repeat(budget, b, a.as_int());
  if (op == "%" && a.is_string()) return FormatPercent(budget, a.text(), b);
  return Unsupported(op, a, b);
}

}  // namespace tessera::jinja
