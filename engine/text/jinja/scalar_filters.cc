#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

absl::StatusOr<Value> ToString(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(Text text, Str(budget, input));
  return NewText(budget, std::move(text));
}

absl::StatusOr<Value> Safe(Budget* budget, const Value& input, const Arguments& args) {
  return ToString(budget, input, args);
}

absl::StatusOr<Value> ToJsonFilter(Budget* budget, const Value& input, const Arguments& args) {
  JsonStyle style;
  ASSIGN_OR_RETURN(style.ensure_ascii, BoolArgument(args, 0, "ensure_ascii", false));
  const Value* indent = args.Find(1, "indent");
  if (indent != nullptr && !indent->is_none()) {
    ASSIGN_OR_RETURN(const int64_t width, IntArgument(args, 1, "indent", 0));
    style.indent = static_cast<int>(std::clamp<int64_t>(width, 0, 64));
  }
  const Value* separators = args.Find(2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    if (!separators->is_list() || separators->list().items.size() != 2 ||
        !separators->list().items[0].is_string() || !separators->list().items[1].is_string()) {
      return absl::InvalidArgumentError("tojson: separators must be two strings");
    }
    style.item_separator = separators->list().items[0].str();
    style.key_separator = separators->list().items[1].str();
  }
  ASSIGN_OR_RETURN(style.sort_keys, BoolArgument(args, 3, "sort_keys", false));
  ASSIGN_OR_RETURN(Text json, ToJson(budget, input, style));
  return NewText(budget, std::move(json));
}

absl::StatusOr<Value> Default(Budget*, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const bool falsy_too, BoolArgument(args, 1, "boolean", false));
  if (!input.is_undefined() && (!falsy_too || IsTrue(input))) return input;
  const Value* fallback = args.Find(0, "default_value");
  return fallback != nullptr ? *fallback : Value::String("");
}

std::string_view TrimmedNumber(const Value& input) {
  const std::string_view bytes = input.str();
  const Span span = StripRange(bytes, nullptr, {});
  return bytes.substr(span.begin, span.end - span.begin);
}

// An integer as int(text, base) reads it; undefined if it is none.
Value ParseInteger(std::string text, int base) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.erase(0, 1);
  const std::string prefix = absl::AsciiStrToLower(text.substr(0, 2));
  const bool prefixed = (base == 16 && prefix == "0x") || (base == 8 && prefix == "0o") ||
                        (base == 2 && prefix == "0b");
  if (prefixed) text.erase(0, text.size() > 2 && text[2] == '_' ? 3 : 2);
  if (text.empty() || text.front() == '_' || text.back() == '_' ||
      text.find("__") != std::string::npos) {
    return Value();
  }
  std::erase(text, '_');
  uint64_t magnitude = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), magnitude, base);
  if (end != text.data() + text.size() || error == std::errc::invalid_argument) return Value();
  const uint64_t limit = uint64_t{1} << 63;
  if (error == std::errc() && magnitude < limit) {
    const auto value = static_cast<int64_t>(magnitude);
    return Value::Int(negative ? -value : value);
  }
  if (base != 10) return Value();
  text.erase(0, std::min(text.find_first_not_of('0'), text.size() - 1));
  return Value::Big((negative ? "-" : "") + text);
}

absl::StatusOr<Value> ToInt(Budget*, const Value& input, const Arguments& args) {
  const Value* fallback = args.Find(0, "default");
  const Value otherwise = fallback != nullptr ? *fallback : Value::Int(0);
  ASSIGN_OR_RETURN(const int64_t base, IntArgument(args, 1, "base", 10));
  if (base < 2 || base > 36) return absl::InvalidArgumentError("the base must be 2 to 36");
  if (input.is_big()) return input;
  if (input.is_int() || input.is_bool()) return Value::Int(input.as_int());
  double number = 0;
  if (input.is_float()) {
    number = input.as_float();
  } else if (input.is_string()) {
    const std::string_view text = TrimmedNumber(input);
    const Value integer = ParseInteger(std::string(text), static_cast<int>(base));
    if (!integer.is_undefined()) return integer;
    if (!absl::SimpleAtod(ToAbsl(text), &number)) return otherwise;
  } else {
    return otherwise;
  }
  if (!std::isfinite(number)) return otherwise;
  if (!(std::fabs(number) < 9.2e18)) return Value::Big(absl::StrFormat("%.0f", number));
  return Value::Int(static_cast<int64_t>(number));
}

absl::StatusOr<Value> ToFloat(Budget*, const Value& input, const Arguments& args) {
  const Value* fallback = args.Find(0, "default");
  if (input.is_number()) return Value::Float(ToDouble(input));
  double number = 0;
  if (input.is_string() && absl::SimpleAtod(ToAbsl(TrimmedNumber(input)), &number)) {
    return Value::Float(number);
  }
  return fallback != nullptr ? *fallback : Value::Float(0);
}

absl::StatusOr<Value> Abs(Budget*, const Value& input, const Arguments&) {
  if (input.is_float()) return Value::Float(std::fabs(input.as_float()));
  if (!input.is_int() && !input.is_bool()) {
    return absl::InvalidArgumentError(Concat("abs: '", input.type_name(), "' is no number"));
  }
  return input.as_int() < 0 ? Negate(input) : Value::Int(input.as_int());
}

// An integer rounded to a power of ten, halves to even, as Python's round does.
absl::StatusOr<Value> RoundInteger(int64_t value, int64_t digits) {
  if (digits >= 0) return Value::Int(value);
  if (digits < -18) return Value::Int(0);
  int64_t unit = 1;
  for (int64_t i = digits; i < 0; ++i) unit *= 10;
  const int64_t remainder = value % unit;
  const int64_t down = value / unit - (remainder < 0 ? 1 : 0);
  const int64_t above = remainder < 0 ? remainder + unit : remainder;
  const bool up = above > unit - above || (above == unit - above && down % 2 != 0);
  int64_t rounded = 0;
  if (__builtin_mul_overflow(down + (up ? 1 : 0), unit, &rounded)) {
    return absl::InvalidArgumentError("an integer computation exceeds 64 bits");
  }
  return Value::Int(rounded);
}

double RoundFloat(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 300) return value;
  if (digits < -300) return std::copysign(0.0, value);
  if (digits >= 0) {  // correctly rounded: printed to that many digits and read again
    double rounded = value;
    const std::string text = absl::StrFormat("%.*f", static_cast<int>(digits), value);
    return absl::SimpleAtod(text, &rounded) ? rounded : value;
  }
  const double unit = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(value / unit) * unit;
}

absl::StatusOr<Value> Round(Budget*, const Value& input, const Arguments& args) {
  if (!input.is_number()) {
    return absl::InvalidArgumentError(Concat("round: '", input.type_name(), "' is no number"));
  }
  ASSIGN_OR_RETURN(const int64_t precision, IntArgument(args, 0, "precision", 0));
  ASSIGN_OR_RETURN(const Text method, TextArgument(args, 1, "method", "common"));
  if (method.bytes() == "common") {
    if (input.is_float()) return Value::Float(RoundFloat(input.as_float(), precision));
    return input.is_big() ? input : RoundInteger(input.as_int(), precision);
  }
  const double scale =
      std::pow(10.0, static_cast<double>(std::clamp<int64_t>(precision, -300, 300)));
  const double scaled = ToDouble(input) * scale;
  if (method.bytes() == "ceil") return Value::Float(std::ceil(scaled) / scale);
  if (method.bytes() == "floor") return Value::Float(std::floor(scaled) / scale);
  return absl::InvalidArgumentError("round: unknown method");
}

}  // namespace

const FilterTable& ScalarFilters() {
  static const auto* const kFilters = new FilterTable{
      {"abs", Abs},       {"d", Default},       {"default", Default},
      {"float", ToFloat}, {"int", ToInt},       {"round", Round},
      {"safe", Safe},     {"string", ToString}, {"tojson", ToJsonFilter},
  };
  return *kFilters;
}

namespace {

Filter FindFilter(std::string_view name) {
  for (const FilterTable* table : {&ScalarFilters(), &SequenceFilters(), &TextFilters()}) {
    const auto it = table->find(name);
    if (it != table->end()) return it->second;
  }
  return nullptr;
}

}  // namespace

bool HasFilter(std::string_view name) { return FindFilter(name) != nullptr; }

absl::StatusOr<Value> ApplyFilter(Budget* budget, std::string_view name, const Value& input,
                                  const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  const Filter filter = FindFilter(name);
  if (filter == nullptr) {
    return absl::InvalidArgumentError(Concat("there is no filter '", name, "'"));
  }
  absl::StatusOr<Value> result = filter(budget, input, args);
  if (result.ok() || !absl::IsInvalidArgument(result.status())) return result;
  return absl::InvalidArgumentError(Concat("filter '", name, "': ", result.status().message()));
}

}  // namespace tessera::jinja
