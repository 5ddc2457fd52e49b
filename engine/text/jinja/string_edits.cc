// Methods that make another text of a text. Padding is the template's, whatever it pads.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/string_methods.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

absl::StatusOr<Value> StripText(Budget* budget, const Text& text, const Arguments& args,
                                StripSides sides) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size())));
  const Value* characters = args.Find(0, "chars");
  std::string set;
  const bool given = characters != nullptr && !characters->is_none();
  if (given) {
    ASSIGN_OR_RETURN(const Text argument, TextArgument(args, 0, "chars", ""));
    set = argument.bytes();
    const auto comparisons = static_cast<int64_t>(text.size() / 16 + 1);
    RETURN_IF_ERROR(budget->Step(comparisons * static_cast<int64_t>(set.size() + 1) / 4));
  }
  const Span span = StripRange(text.bytes(), given ? &set : nullptr, sides);
  return Value::FromText(text.Slice(span.begin, span.end));
}

absl::StatusOr<Value> Strip(Budget* budget, const Value& self, const Arguments& args) {
  return StripText(budget, self.text(), args, {});
}
absl::StatusOr<Value> LeftStrip(Budget* budget, const Value& self, const Arguments& args) {
  return StripText(budget, self.text(), args, {.right = false});
}
absl::StatusOr<Value> RightStrip(Budget* budget, const Value& self, const Arguments& args) {
  return StripText(budget, self.text(), args, {.left = false});
}

// The pieces' byte ranges of a split at white space.
std::vector<Span> SplitSpaces(std::string_view bytes, int64_t max_splits, bool from_right) {
  std::vector<Span> words;
  for (size_t at = 0; at < bytes.size();) {
    const Span rest = StripRange(bytes.substr(at), nullptr, {.right = false});
    const size_t begin = at + rest.begin;
    if (begin >= bytes.size()) break;
    size_t end = begin;
    while (end < bytes.size()) {
      const CodePoint point = DecodeCodePoint(bytes, end);
      if (IsSpace(point.value)) break;
      end += point.length;
    }
    words.push_back({begin, end});
    at = end;
  }
  const auto keep = static_cast<size_t>(max_splits);
  if (max_splits < 0 || words.size() <= keep) return words;
  if (from_right) {
    const auto surplus = static_cast<std::ptrdiff_t>(words.size() - keep - 1);
    words.erase(words.begin(), words.begin() + surplus);
    words.front().begin = 0;
  } else {
    words.resize(keep + 1);
    words.back().end = bytes.size();
  }
  return words;
}

std::vector<Span> SplitAt(std::string_view bytes, std::string_view separator, int64_t max_splits,
                          bool from_right) {
  std::vector<Span> pieces;
  if (max_splits < 0) max_splits = INT64_MAX;
  if (from_right) {
    size_t end = bytes.size();
    while (max_splits-- > 0 && end >= separator.size()) {
      const size_t match = bytes.substr(0, end).rfind(separator);
      if (match == std::string_view::npos) break;
      pieces.push_back({match + separator.size(), end});
      end = match;
    }
    pieces.push_back({0, end});
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }
  size_t begin = 0;
  while (max_splits-- > 0) {
    const size_t match = bytes.find(separator, begin);
    if (match == std::string_view::npos) break;
    pieces.push_back({begin, match});
    begin = match + separator.size();
  }
  pieces.push_back({begin, bytes.size()});
  return pieces;
}

absl::StatusOr<Value> Pieces(Budget* budget, const Text& text, const std::vector<Span>& spans) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(text.size()) +
                                 2 * kElementCost * static_cast<int64_t>(spans.size())));
  std::vector<Value> pieces;
  pieces.reserve(spans.size());
  for (const Span& span : spans) {
    pieces.push_back(Value::FromText(text.Slice(span.begin, span.end)));
  }
  return NewList(budget, std::move(pieces));
}

absl::StatusOr<Value> SplitText(Budget* budget, const Text& text, const Arguments& args,
                                bool from_right) {
  RETURN_IF_ERROR(budget->Charge(2 * static_cast<int64_t>(text.size())));
  ASSIGN_OR_RETURN(const int64_t max_splits, IntArgument(args, 1, "maxsplit", -1));
  const Value* separator = args.Find(0, "sep");
  if (separator == nullptr || separator->is_none()) {
    return Pieces(budget, text, SplitSpaces(text.bytes(), max_splits, from_right));
  }
  ASSIGN_OR_RETURN(const Text at, TextArgument(args, 0, "sep", ""));
  if (at.empty()) return absl::InvalidArgumentError("split: the separator is empty");
  return Pieces(budget, text, SplitAt(text.bytes(), at.bytes(), max_splits, from_right));
}

absl::StatusOr<Value> Split(Budget* budget, const Value& self, const Arguments& args) {
  return SplitText(budget, self.text(), args, false);
}
absl::StatusOr<Value> RightSplit(Budget* budget, const Value& self, const Arguments& args) {
  return SplitText(budget, self.text(), args, true);
}

absl::StatusOr<Value> SplitLines(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const bool keep_ends, BoolArgument(args, 0, "keepends", false));
  RETURN_IF_ERROR(budget->Charge(2 * static_cast<int64_t>(self.str().size())));
  return Pieces(budget, self.text(), LinesOf(self.str(), keep_ends));
}

// (before, separator, after), all of the text before (or after) when there is no separator.
absl::StatusOr<Value> PartitionText(Budget* budget, const Text& text, const Arguments& args,
                                    bool from_right) {
  ASSIGN_OR_RETURN(const Text separator, TextArgument(args, 0, "sep", ""));
  if (separator.empty()) return absl::InvalidArgumentError("partition: the separator is empty");
  RETURN_IF_ERROR(budget->Charge(2 * static_cast<int64_t>(text.size())));
  const std::string& bytes = text.bytes();
  const size_t at = from_right ? bytes.rfind(separator.bytes()) : bytes.find(separator.bytes());
  const size_t begin = at != std::string::npos ? at : from_right ? 0 : bytes.size();
  const size_t end = at != std::string::npos ? at + separator.size() : begin;
  std::vector<Value> parts;
  for (const Span& span : {Span{0, begin}, Span{begin, end}, Span{end, bytes.size()}}) {
    parts.push_back(Value::FromText(text.Slice(span.begin, span.end)));
  }
  return NewList(budget, std::move(parts), /*tuple=*/true);
}
absl::StatusOr<Value> Partition(Budget* budget, const Value& self, const Arguments& args) {
  return PartitionText(budget, self.text(), args, false);
}
absl::StatusOr<Value> RightPartition(Budget* budget, const Value& self, const Arguments& args) {
  return PartitionText(budget, self.text(), args, true);
}

absl::StatusOr<Value> RemovePrefix(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text affix, TextArgument(args, 0, "prefix", ""));
  if (!self.str().starts_with(affix.bytes())) return self;
  return NewText(budget, self.text().Slice(affix.size(), self.str().size()));
}
absl::StatusOr<Value> RemoveSuffix(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text affix, TextArgument(args, 0, "suffix", ""));
  if (!self.str().ends_with(affix.bytes())) return self;
  return NewText(budget, self.text().Slice(0, self.str().size() - affix.size()));
}

absl::StatusOr<Value> Replace(Budget* budget, const Value& self, const Arguments& args) {
  if (args.count() < 2) return absl::InvalidArgumentError("replace needs two strings");
  ASSIGN_OR_RETURN(const Text from, TextArgument(args, 0, "old", ""));
  ASSIGN_OR_RETURN(const Text to, TextArgument(args, 1, "new", ""));
  ASSIGN_OR_RETURN(const int64_t count, IntArgument(args, 2, "count", -1));
  return ReplaceText(budget, self.text(), from, to, count);
}

using Mapping = Text (*)(const Text&);
template <Mapping mapping>
absl::StatusOr<Value> Mapped(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(4 * static_cast<int64_t>(self.str().size())));
  return NewText(budget, mapping(self.text()));
}

absl::StatusOr<Value> Join(Budget* budget, const Value& self, const Arguments& args) {
  const Value* iterable = args.Find(0, "iterable");
  if (iterable == nullptr) return absl::InvalidArgumentError("join needs a list");
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, *iterable));
  TextBuilder builder;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) {
      return absl::InvalidArgumentError(
          Concat("join: element ", i, " is '", items[i].type_name(), "', not a string"));
    }
    RETURN_IF_ERROR(
        budget->Charge(static_cast<int64_t>(self.str().size() + items[i].str().size())));
    if (i > 0) builder.Append(self.text());
    builder.Append(items[i].text());
  }
  return NewText(budget, std::move(builder).Build());
}
absl::StatusOr<Value> PadTo(Budget* budget, const Value& self, const Arguments& args, char align) {
  if (args.Find(0, "width") == nullptr) return absl::InvalidArgumentError("the width is missing");
  ASSIGN_OR_RETURN(const int64_t width, IntArgument(args, 0, "width", 0));
  ASSIGN_OR_RETURN(const Text fill, TextArgument(args, 1, "fillchar", " "));
  if (CountCodePoints(fill.bytes()) != 1) {
    return absl::InvalidArgumentError("the fill must be one character");
  }
  return Pad(budget, self.text(), {.width = width, .align = align, .fill = fill.bytes()});
}
absl::StatusOr<Value> Center(Budget* budget, const Value& self, const Arguments& args) {
  return PadTo(budget, self, args, '^');
}
absl::StatusOr<Value> LeftJustify(Budget* budget, const Value& self, const Arguments& args) {
  return PadTo(budget, self, args, '<');
}
absl::StatusOr<Value> RightJustify(Budget* budget, const Value& self, const Arguments& args) {
  return PadTo(budget, self, args, '>');
}

// Zeros go behind a sign.
absl::StatusOr<Value> ZeroFill(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t width, IntArgument(args, 0, "width", 0));
  const std::string_view bytes = self.str();
  const size_t sign = !bytes.empty() && (bytes[0] == '-' || bytes[0] == '+') ? 1 : 0;
  ASSIGN_OR_RETURN(const Value digits,
                   Pad(budget, self.text().Slice(sign, bytes.size()),
                       {.width = std::max<int64_t>(width, 1) - static_cast<int64_t>(sign),
                        .align = '>',
                        .fill = "0"}));
  TextBuilder builder;
  builder.AppendRange(self.text(), 0, sign);
  builder.Append(digits.text());
  return NewText(budget, std::move(builder).Build());
}

absl::StatusOr<Value> ExpandTabs(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t size, IntArgument(args, 0, "tabsize", 8));
  TextBuilder builder;
  int64_t column = 0;
  for (size_t at = 0; at < self.str().size();) {
    const size_t length = DecodeCodePoint(self.str(), at).length;
    const char c = self.str()[at];
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      RETURN_IF_ERROR(budget->Charge(spaces));
      builder.Append(std::string(static_cast<size_t>(spaces), ' '));
      column += spaces;
    } else {
      builder.AppendRange(self.text(), at, at + length);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
    at += length;
  }
  return NewText(budget, std::move(builder).Build());
}

absl::StatusOr<Value> Format(Budget* budget, const Value& self, const Arguments& args) {
  return FormatBraces(budget, self.text(), args);
}

}  // namespace

std::vector<Span> LinesOf(std::string_view bytes, bool keep_ends) {
  std::vector<Span> lines;
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint point = DecodeCodePoint(bytes, at);
    const int32_t c = point.value;
    const bool ends =
        (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
    size_t next = at + point.length;
    if (ends) {
      if (c == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
      lines.push_back({begin, keep_ends ? next : at});
      begin = next;
    }
    at = next;
  }
  if (begin < bytes.size()) lines.push_back({begin, bytes.size()});
  return lines;
}

absl::StatusOr<Value> Pad(Budget* budget, const Text& text, const Padding& padding) {
  const auto length = static_cast<int64_t>(CountCodePoints(text.bytes()));
  const int64_t missing = padding.width > length ? padding.width - length : 0;
  RETURN_IF_ERROR(budget->Charge(missing));
  RETURN_IF_ERROR(budget->Charge(missing * static_cast<int64_t>(padding.fill.size())));
  // As CPython rounds: the odd one goes left only in an odd width.
  const int64_t half = missing / 2 + (missing & padding.width & 1);
  const int64_t left = padding.align == '<' ? 0 : padding.align == '>' ? missing : half;
  TextBuilder builder;
  for (int64_t i = 0; i < left; ++i) builder.Append(padding.fill);
  builder.Append(text);
  for (int64_t i = left; i < missing; ++i) builder.Append(padding.fill);
  return NewText(budget, std::move(builder).Build());
}

const MethodTable& StringEdits() {
  static const auto* const kMethods = new MethodTable{
      {"capitalize", Mapped<MapCapitalize>},
      {"casefold", Mapped<MapFold>},
      {"center", Center},
      {"expandtabs", ExpandTabs},
      {"format", Format},
      {"join", Join},
      {"ljust", LeftJustify},
      {"lower", Mapped<MapLower>},
      {"lstrip", LeftStrip},
      {"partition", Partition},
      {"removeprefix", RemovePrefix},
      {"removesuffix", RemoveSuffix},
      {"replace", Replace},
      {"rjust", RightJustify},
      {"rpartition", RightPartition},
      {"rsplit", RightSplit},
      {"rstrip", RightStrip},
      {"split", Split},
      {"splitlines", SplitLines},
      {"strip", Strip},
      {"swapcase", Mapped<MapSwapCase>},
      {"title", Mapped<MapTitle>},
      {"upper", Mapped<MapUpper>},
      {"zfill", ZeroFill},
  };
  return *kMethods;
}

}  // namespace tessera::jinja
