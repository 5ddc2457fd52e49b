// Filters of text: str(input), then what the filter does.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/string_methods.h"
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

absl::StatusOr<Value> Center(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t width, IntArgument(args, 0, "width", 80));
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  return Pad(budget, text, {.width = width, .align = '^'});
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
      if (begin < at) {
        const size_t second = begin + DecodeCodePoint(text.bytes(), begin).length;
        builder.Append(MapUpper(text.Slice(begin, second)));
        builder.Append(MapLower(text.Slice(second, at)));
      }
      builder.AppendRange(text, at, at + point.length);
      begin = at + point.length;
    }
    at += point.length;
  }
  return NewText(budget, std::move(builder).Build());
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
  const Value* old_text = args.Find(0, "old");
  const Value* new_text = args.Find(1, "new");
  if (old_text == nullptr || new_text == nullptr) {
    return absl::InvalidArgumentError("replace needs two strings");
  }
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  ASSIGN_OR_RETURN(const Text from, Str(budget, *old_text));
  ASSIGN_OR_RETURN(const Text to, Str(budget, *new_text));
  const Value* limit = args.Find(2, "count");
  int64_t count = -1;
  if (limit != nullptr && !limit->is_none()) {
    ASSIGN_OR_RETURN(count, IntArgument(args, 2, "count", -1));
  }
  return ReplaceText(budget, text, from, to, count);
}

// Values by position or by name, not both.
absl::StatusOr<Value> Format(Budget* budget, const Value& input, const Arguments& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return absl::InvalidArgumentError("values go by position or by name, not both");
  }
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  if (args.named.empty()) {
    ASSIGN_OR_RETURN(const Value values, NewList(budget, args.positional, /*tuple=*/true));
    return FormatPercent(budget, text, values);
  }
  Dict values;
  for (const auto& [name, value] : args.named) values.Set(name, value);
  ASSIGN_OR_RETURN(const Value named, NewDict(budget, std::move(values)));
  return FormatPercent(budget, text, named);
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
  // Lines as splitlines finds them, joined by newlines again, and a last one that may be empty.
  std::vector<Span> lines = LinesOf(text.bytes(), false);
  std::vector<Span> whole = LinesOf(text.bytes(), true);
  if (lines.empty() || lines.back().end != whole.back().end) {
    lines.push_back({text.size(), text.size()});
  }
  TextBuilder builder;
  for (size_t i = 0; i < lines.size(); ++i) {
    const Span line = lines[i];
    RETURN_IF_ERROR(
        budget->Charge(static_cast<int64_t>(line.end - line.begin + margin.size() + 1)));
    if (i > 0) builder.Append("\n");
    if (i == 0 ? first : (blank || line.end > line.begin)) builder.Append(margin);
    builder.AppendRange(text, line.begin, line.end);
  }
  return NewText(budget, std::move(builder).Build());
}

// Runs of letters, digits and underscores.
absl::StatusOr<Value> WordCount(Budget* budget, const Value& input, const Arguments&) {
  ASSIGN_OR_RETURN(const Text text, Str(budget, input));
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size())));
  int64_t words = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = DecodeCodePoint(text.bytes(), at);
    const bool part = point.value == '_' || IsAlphanumeric(point.value);
    words += part && !in_word ? 1 : 0;
    in_word = part;
    at += point.length;
  }
  return Value::Int(words);
}

absl::StatusOr<Value> Truncate(Budget* budget, const Value& input, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t length, IntArgument(args, 0, "length", 255));
  ASSIGN_OR_RETURN(const bool kill_words, BoolArgument(args, 1, "killwords", false));
  ASSIGN_OR_RETURN(const Text end, TextArgument(args, 2, "end", "..."));
  const Value* given = args.Find(3, "leeway");
  int64_t leeway = 5;
  if (given != nullptr && !given->is_none()) {
    ASSIGN_OR_RETURN(leeway, IntArgument(args, 3, "leeway", 5));
  }
  const auto end_length = static_cast<int64_t>(CountCodePoints(end.bytes()));
  if (length < end_length || leeway < 0) {
    return absl::InvalidArgumentError("truncate: the length is too small");
  }
  ASSIGN_OR_RETURN(const int64_t total, Length(budget, input));
  if (total <= length || total - length <= leeway) return input;
  if (!input.is_string()) {
    return absl::InvalidArgumentError(Concat("'", input.type_name(), "' cannot be truncated"));
  }
  const Text& text = input.text();
  RETURN_IF_ERROR(budget->Charge(16 * static_cast<int64_t>(text.size())));
  const std::vector<size_t> offsets = CodePointOffsets(text.bytes());
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

const FilterTable& TextFilters() {
  static const auto* const kFilters = new FilterTable{
      {"capitalize", Capitalize}, {"center", Center},       {"e", Escape},
      {"escape", Escape},         {"forceescape", Escape},  {"format", Format},
      {"indent", Indent},         {"lower", Lower},         {"replace", Replace},
      {"title", Title},           {"trim", Trim},           {"truncate", Truncate},
      {"upper", Upper},           {"wordcount", WordCount},
  };
  return *kFilters;
}

}  // namespace tessera::jinja
