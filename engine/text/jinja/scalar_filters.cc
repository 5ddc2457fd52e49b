#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

absl::StatusOr<Value> CallMethod(Budget* budget, const Value& self, std::string_view name,
                                 const Arguments& args) {
  const Value method = BindMethod(self, name);
  return static_cast<Callable&>(*method.object()).Call(budget, args);
}

// A filter that is str(input).name(args).
absl::StatusOr<Value> StringMethod(Budget* budget, const Value& input, std::string_view name,
                                   const Arguments& args) {
  ASSIGN_OR_RETURN(Text text, Str(budget, input));
  return CallMethod(budget, Value::FromText(std::move(text)), name, args);
}
absl::StatusOr<Value> Upper(Budget* budget, const Value& input, const Arguments&) {
  return StringMethod(budget, input, "upper", {});
}
absl::StatusOr<Value> Lower(Budget* budget, const Value& input, const Arguments&) {
  return StringMethod(budget, input, "lower", {});
}
absl::StatusOr<Value> Capitalize(Budget* budget, const Value& input, const Arguments&) {
  return StringMethod(budget, input, "capitalize", {});
}
absl::StatusOr<Value> Trim(Budget* budget, const Value& input, const Arguments& args) {
  Arguments strip = args;
  for (auto& [name, value] : strip.named) strip.positional.push_back(value);
  return StringMethod(budget, input, "strip", strip);
}

// Unlike str.title, a word starts only after white space, a dash or an opening bracket.
absl::StatusOr<Value> Title(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  RETURN_IF_ERROR(budget->Charge(4 * static_cast<int64_t>(text.size())));
  TextBuilder builder;
  size_t begin = 0;
  for (size_t at = 0; at <= text.size();) {
    const CodePoint point =
        at < text.size() ? DecodeCodePoint(text.bytes(), at) : CodePoint{' ', 1};
    const bool separator =
        point.value >= 0 &&
        (IsSpace(point.value) || std::string_view("-([{<").find(static_cast<char>(
                                     std::min(point.value, 127))) != std::string_view::npos);
    if (separator) {
      builder.Append(MapCapitalize(text.Slice(begin, at)));
      builder.AppendRange(text, at, at + point.length);
      begin = at + point.length;
    }
    at += point.length;
  }
  return NewText(budget, std::move(builder).Build());
}

absl::StatusOr<Value> ToString(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(Text text, Str(budget, input));
  return NewText(budget, std::move(text));
}

absl::StatusOr<Value> Safe(Budget* budget, const Value& input, const Arguments& args) {
  return ToString(budget, input, args);
}

absl::StatusOr<Value> Escape(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  static constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  Value escaped = Value::FromText(text);
  for (const auto& [character, entity] : kEntities) {
    ASSIGN_OR_RETURN(escaped, ReplaceText(budget, escaped.text(), Text(std::string(character)),
                                          Text(std::string(entity)), -1));
  }
  return escaped;
}

absl::StatusOr<Value> Replace(Budget* budget, const Value& input, const Arguments& args) {
  if (args.count() < 2) return absl::InvalidArgumentError("replace needs two strings");
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  ASSIGN_OR_RETURN(const Text from, TextArgument(args, 0, "old", ""));
  ASSIGN_OR_RETURN(const Text to, TextArgument(args, 1, "new", ""));
  ASSIGN_OR_RETURN(const int64_t count, IntArgument(args, 2, "count", -1));
  return ReplaceText(budget, text, from, to, count);
}

absl::StatusOr<Value> Format(Budget* budget, const Value& input, const Arguments& args) {
  if (!input.is_string()) return absl::InvalidArgumentError("format needs a string");
  ASSIGN_OR_RETURN(const Value values, NewList(budget, args.positional, /*tuple=*/true));
  return FormatPercent(budget, input.text(), values);
}

absl::StatusOr<Value> Indent(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  Text margin(std::string(4, ' '));
  if (const Value* width = args.Find(0, "width")) {
    if (width->is_string()) {
      margin = width->text();
    } else {
      ASSIGN_OR_RETURN(const int64_t spaces, IntArgument(args, 0, "width", 4));
      RETURN_IF_ERROR(budget->Charge(std::max<int64_t>(spaces, 0)));
      margin = Text(std::string(static_cast<size_t>(std::max<int64_t>(spaces, 0)), ' '));
    }
  }
  ASSIGN_OR_RETURN(const bool first, BoolArgument(args, 1, "first", false));
  ASSIGN_OR_RETURN(const bool blank, BoolArgument(args, 2, "blank", false));
  TextBuilder builder;
  const std::string& bytes = text.bytes();
  for (size_t at = 0; at <= bytes.size();) {
    const size_t end = std::min(bytes.find('\n', at), bytes.size());
    RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(end - at + margin.size() + 1)));
    if (at == 0 ? first : (blank || end > at)) builder.Append(margin);
    builder.AppendRange(text, at, end + 1);
    at = end + 1;
  }
  return NewText(budget, std::move(builder).Build());
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

absl::StatusOr<Value> ToInt(Budget*, const Value& input, const Arguments& args) {
  const Value* fallback = args.Find(0, "default");
  const Value otherwise = fallback != nullptr ? *fallback : Value::Int(0);
  if (input.is_big()) return input;
  if (input.is_int() || input.is_bool()) return Value::Int(input.as_int());
  double number = 0;
  if (input.is_float()) {
    number = input.as_float();
  } else if (input.is_string()) {
    int64_t integer = 0;
    if (absl::SimpleAtoi(ToAbsl(TrimmedNumber(input)), &integer)) return Value::Int(integer);
    if (!absl::SimpleAtod(ToAbsl(TrimmedNumber(input)), &number)) return otherwise;
  } else {
    return otherwise;
  }
  if (!(std::fabs(number) < 9.2e18)) return otherwise;
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

absl::StatusOr<Value> Round(Budget*, const Value& input, const Arguments& args) {
  if (!input.is_number()) {
    return absl::InvalidArgumentError(Concat("round: '", input.type_name(), "' is no number"));
  }
  ASSIGN_OR_RETURN(const int64_t precision, IntArgument(args, 0, "precision", 0));
  ASSIGN_OR_RETURN(const Text method, TextArgument(args, 1, "method", "common"));
  const double scale =
      std::pow(10.0, static_cast<double>(std::clamp<int64_t>(precision, -300, 300)));
  const double scaled = ToDouble(input) * scale;
  if (method.bytes() == "ceil") return Value::Float(std::ceil(scaled) / scale);
  if (method.bytes() == "floor") return Value::Float(std::floor(scaled) / scale);
  if (method.bytes() != "common") return absl::InvalidArgumentError("round: unknown method");
  return Value::Float(std::nearbyint(scaled) / scale);
}

absl::StatusOr<Value> WordCount(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(const Value words, StringMethod(budget, input, "split", {}));
  return Value::Int(static_cast<int64_t>(words.list().items.size()));
}

absl::StatusOr<Value> Truncate(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  ASSIGN_OR_RETURN(const int64_t length, IntArgument(args, 0, "length", 255));
  ASSIGN_OR_RETURN(const bool kill_words, BoolArgument(args, 1, "killwords", false));
  ASSIGN_OR_RETURN(const Text end, TextArgument(args, 2, "end", "..."));
  ASSIGN_OR_RETURN(const int64_t leeway, IntArgument(args, 3, "leeway", 5));
  RETURN_IF_ERROR(budget->Charge(16 * static_cast<int64_t>(text.size())));
  const std::vector<size_t> offsets = CodePointOffsets(text.bytes());
  const auto total = static_cast<int64_t>(offsets.size()) - 1;
  const auto end_length = static_cast<int64_t>(CountCodePoints(end.bytes()));
  if (length < end_length || leeway < 0) {
    return absl::InvalidArgumentError("truncate: the length is too small");
  }
  if (total <= length || total - length <= leeway) return Value::FromText(text);
  size_t cut = offsets[static_cast<size_t>(length - end_length)];
  if (!kill_words) {
    const size_t space = cut == 0 ? std::string::npos : text.bytes().rfind(' ', cut - 1);
    if (space != std::string::npos) cut = space;
  }
  TextBuilder builder;
  builder.AppendRange(text, 0, cut);
  builder.Append(end);
  return NewText(budget, std::move(builder).Build());
}

}  // namespace

const FilterTable& ScalarFilters() {
  static const auto* const kFilters = new FilterTable{
      {"abs", Abs},
      {"capitalize", Capitalize},
      {"d", Default},
      {"default", Default},
      {"e", Escape},
      {"escape", Escape},
      {"float", ToFloat},
      {"format", Format},
      {"indent", Indent},
      {"int", ToInt},
      {"lower", Lower},
      {"replace", Replace},
      {"round", Round},
      {"safe", Safe},
      {"string", ToString},
      {"title", Title},
      {"tojson", ToJsonFilter},
      {"trim", Trim},
      {"truncate", Truncate},
      {"upper", Upper},
      {"wordcount", WordCount},
  };
  return *kFilters;
}

absl::StatusOr<Value> ApplyFilter(Budget* budget, std::string_view name, const Value& input,
                                  const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  for (const FilterTable* table : {&ScalarFilters(), &SequenceFilters()}) {
    const auto it = table->find(name);
    if (it == table->end()) continue;
    absl::StatusOr<Value> result = it->second(budget, input, args);
    if (result.ok() || !absl::IsInvalidArgument(result.status())) return result;
    return absl::InvalidArgumentError(Concat("filter '", name, "': ", result.status().message()));
  }
  return absl::InvalidArgumentError(Concat("there is no filter '", name, "'"));
}

}  // namespace tessera::jinja
