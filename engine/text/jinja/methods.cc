#include "engine/text/jinja/methods.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/operators.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

const Value* Arguments::Find(size_t position, std::string_view name) const {
  if (position < positional.size()) return &positional[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

namespace {

absl::Status WrongArgument(std::string_view name, std::string_view expected, const Value& value) {
  if (value.is_undefined()) return absl::InvalidArgumentError(value.undefined_reason());
  return absl::InvalidArgumentError(
      Concat("argument '", name, "' must be ", expected, ", not '", value.type_name(), "'"));
}

}  // namespace

absl::StatusOr<int64_t> IntArgument(const Arguments& args, size_t position, std::string_view name,
                                    int64_t fallback) {
  const Value* value = args.Find(position, name);
  if (value == nullptr) return fallback;
  if (!value->is_int() && !value->is_bool()) return WrongArgument(name, "an integer", *value);
  return value->as_int();
}

absl::StatusOr<bool> BoolArgument(const Arguments& args, size_t position, std::string_view name,
                                  bool fallback) {
  const Value* value = args.Find(position, name);
  return value == nullptr ? fallback : IsTrue(*value);
}

absl::StatusOr<Text> TextArgument(const Arguments& args, size_t position, std::string_view name,
                                  std::string_view fallback) {
  const Value* value = args.Find(position, name);
  if (value == nullptr) return Text(std::string(fallback));
  if (!value->is_string()) return WrongArgument(name, "a string", *value);
  return value->text();
}

absl::StatusOr<Value> DictItems(Budget* budget, const Dict& dict) {
  std::vector<Value> items;
  items.reserve(dict.size());
  for (const auto& [key, value] : dict.entries()) {
    ASSIGN_OR_RETURN(Value pair, NewList(budget, {key, value}, /*tuple=*/true));
    items.push_back(std::move(pair));
  }
  return NewList(budget, std::move(items));
}

absl::StatusOr<Value> ReplaceText(Budget* budget, const Text& text, const Text& from,
                                  const Text& to, int64_t count) {
  if (count < 0) count = INT64_MAX;
  TextBuilder builder;
  size_t at = 0;
  const std::string& bytes = text.bytes();
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(bytes.size())));
  while (count > 0) {
    const size_t match = bytes.find(from.bytes(), at);
    if (match == std::string::npos) break;
    RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(to.size())));
    builder.AppendRange(text, at, match);
    builder.Append(to);
    --count;
    at = match + from.size();
    if (!from.empty()) continue;
    // An empty pattern matches between all characters and at both ends.
    if (at >= bytes.size()) break;
    const size_t length = DecodeCodePoint(bytes, at).length;
    builder.AppendRange(text, at, at + length);
    at += length;
  }
  builder.AppendRange(text, at, bytes.size());
  return NewText(budget, std::move(builder).Build());
}

namespace {

using Method = absl::StatusOr<Value> (*)(Budget*, const Value& self, const Arguments&);

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
  const std::string& bytes = self.str();
  RETURN_IF_ERROR(budget->Charge(2 * static_cast<int64_t>(bytes.size())));
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
  return Pieces(budget, self.text(), lines);
}

// startswith and endswith take one string or a tuple of them.
absl::StatusOr<Value> MatchesAny(const Value& self, const Arguments& args,
                                 bool (*matches)(std::string_view, std::string_view)) {
  const Value* affix = args.Find(0, "prefix");
  if (affix != nullptr && affix->is_list() && affix->list().tuple) {
    for (const Value& item : affix->list().items) {
      if (item.is_string() && matches(self.str(), item.str())) return Value::Bool(true);
    }
    return Value::Bool(false);
  }
  if (affix == nullptr) return absl::InvalidArgumentError("an argument is missing");
  ASSIGN_OR_RETURN(const Text text, TextArgument(args, 0, "prefix", ""));
  return Value::Bool(matches(self.str(), text.bytes()));
}

bool StartsWithText(std::string_view text, std::string_view affix) {
  return text.starts_with(affix);
}
bool EndsWithText(std::string_view text, std::string_view affix) { return text.ends_with(affix); }

absl::StatusOr<Value> StartsWithMethod(Budget* budget, const Value& self, const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  return MatchesAny(self, args, StartsWithText);
}
absl::StatusOr<Value> EndsWithMethod(Budget* budget, const Value& self, const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  return MatchesAny(self, args, EndsWithText);
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

absl::StatusOr<Value> Upper(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(4 * static_cast<int64_t>(self.str().size())));
  return NewText(budget, MapUpper(self.text()));
}
absl::StatusOr<Value> Lower(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(4 * static_cast<int64_t>(self.str().size())));
  return NewText(budget, MapLower(self.text()));
}
absl::StatusOr<Value> Title(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(4 * static_cast<int64_t>(self.str().size())));
  return NewText(budget, MapTitle(self.text()));
}
absl::StatusOr<Value> Capitalize(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(4 * static_cast<int64_t>(self.str().size())));
  return NewText(budget, MapCapitalize(self.text()));
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

absl::StatusOr<Value> FindIn(Budget* budget, const Value& self, const Arguments& args,
                             bool from_right) {
  ASSIGN_OR_RETURN(const Text needle, TextArgument(args, 0, "sub", ""));
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(self.str().size())));
  const size_t at = from_right ? self.str().rfind(needle.bytes()) : self.str().find(needle.bytes());
  if (at == std::string::npos) return Value::Int(-1);
  return Value::Int(
      static_cast<int64_t>(CountCodePoints(std::string_view(self.str()).substr(0, at))));
}
absl::StatusOr<Value> Find(Budget* budget, const Value& self, const Arguments& args) {
  return FindIn(budget, self, args, false);
}
absl::StatusOr<Value> RightFind(Budget* budget, const Value& self, const Arguments& args) {
  return FindIn(budget, self, args, true);
}

absl::StatusOr<Value> Count(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text needle, TextArgument(args, 0, "sub", ""));
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(self.str().size())));
  if (needle.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(self.str())) + 1);
  int64_t count = 0;
  for (size_t at = self.str().find(needle.bytes()); at != std::string::npos;
       at = self.str().find(needle.bytes(), at + needle.size())) {
    ++count;
  }
  return Value::Int(count);
}

absl::StatusOr<Value> AllCharacters(Budget* budget, const Value& self, bool (*is)(int32_t)) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(self.str().size())));
  for (size_t at = 0; at < self.str().size();) {
    const CodePoint point = DecodeCodePoint(self.str(), at);
    if (!is(point.value)) return Value::Bool(false);
    at += point.length;
  }
  return Value::Bool(!self.str().empty());
}
absl::StatusOr<Value> IsDigitMethod(Budget* budget, const Value& self, const Arguments&) {
  return AllCharacters(budget, self, IsDigit);
}
absl::StatusOr<Value> IsAlphaMethod(Budget* budget, const Value& self, const Arguments&) {
  return AllCharacters(budget, self, IsLetter);
}
absl::StatusOr<Value> IsAlnumMethod(Budget* budget, const Value& self, const Arguments&) {
  return AllCharacters(budget, self, [](int32_t c) { return IsLetter(c) || IsDigit(c); });
}
absl::StatusOr<Value> IsSpaceMethod(Budget* budget, const Value& self, const Arguments&) {
  return AllCharacters(budget, self, IsSpace);
}

absl::StatusOr<Value> HasCase(Budget* budget, const Value& self, bool (*wanted)(int32_t),
                              bool (*other)(int32_t)) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(self.str().size())));
  bool found = false;
  for (size_t at = 0; at < self.str().size();) {
    const CodePoint point = DecodeCodePoint(self.str(), at);
    if (other(point.value)) return Value::Bool(false);
    found |= wanted(point.value);
    at += point.length;
  }
  return Value::Bool(found);
}
absl::StatusOr<Value> IsUpperMethod(Budget* budget, const Value& self, const Arguments&) {
  return HasCase(budget, self, IsUpper, IsLower);
}
absl::StatusOr<Value> IsLowerMethod(Budget* budget, const Value& self, const Arguments&) {
  return HasCase(budget, self, IsLower, IsUpper);
}

absl::StatusOr<Value> Items(Budget* budget, const Value& self, const Arguments&) {
  return DictItems(budget, self.dict());
}
absl::StatusOr<Value> Keys(Budget* budget, const Value& self, const Arguments&) {
  ASSIGN_OR_RETURN(std::vector<Value> keys, Iterate(budget, self));
  return NewList(budget, std::move(keys));
}
absl::StatusOr<Value> Values(Budget* budget, const Value& self, const Arguments&) {
  std::vector<Value> values;
  for (const auto& [key, value] : self.dict().entries()) values.push_back(value);
  return NewList(budget, std::move(values));
}
absl::StatusOr<Value> Get(Budget* budget, const Value& self, const Arguments& args) {
  RETURN_IF_ERROR(budget->Step());
  const Value* key = args.Find(0, "key");
  if (key == nullptr) return absl::InvalidArgumentError("get needs a key");
  if (const Value* found = self.dict().Find(*key)) return *found;
  const Value* fallback = args.Find(1, "default");
  return fallback != nullptr ? *fallback : Value::MakeNone();
}
absl::StatusOr<Value> Copy(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Step());
  return self;
}
absl::StatusOr<Value> Forbidden(Budget*, const Value& self, const Arguments&) {
  return absl::InvalidArgumentError(Concat("a template must not change a ", self.type_name()));
}

using MethodTable = std::map<std::string_view, Method>;

const MethodTable& StringMethods() {
  static const auto* const kMethods = new MethodTable{
      {"strip", Strip},
      {"lstrip", LeftStrip},
      {"rstrip", RightStrip},
      {"split", Split},
      {"rsplit", RightSplit},
      {"splitlines", SplitLines},
      {"startswith", StartsWithMethod},
      {"endswith", EndsWithMethod},
      {"removeprefix", RemovePrefix},
      {"removesuffix", RemoveSuffix},
      {"replace", Replace},
      {"upper", Upper},
      {"lower", Lower},
      {"title", Title},
      {"capitalize", Capitalize},
      {"join", Join},
      {"find", Find},
      {"rfind", RightFind},
      {"count", Count},
      {"isdigit", IsDigitMethod},
      {"isnumeric", IsDigitMethod},
      {"isdecimal", IsDigitMethod},
      {"isalpha", IsAlphaMethod},
      {"isalnum", IsAlnumMethod},
      {"isspace", IsSpaceMethod},
      {"isupper", IsUpperMethod},
      {"islower", IsLowerMethod},
  };
  return *kMethods;
}

const MethodTable& DictMethods() {
  static const auto* const kMethods = new MethodTable{
      {"items", Items},     {"keys", Keys},         {"values", Values},
      {"get", Get},         {"copy", Copy},         {"update", Forbidden},
      {"pop", Forbidden},   {"popitem", Forbidden}, {"setdefault", Forbidden},
      {"clear", Forbidden},
  };
  return *kMethods;
}

const MethodTable& ListMethods() {
  static const auto* const kMethods = new MethodTable{
      {"append", Forbidden}, {"extend", Forbidden}, {"insert", Forbidden},
      {"pop", Forbidden},    {"remove", Forbidden}, {"reverse", Forbidden},
      {"sort", Forbidden},   {"clear", Forbidden},  {"copy", Copy},
  };
  return *kMethods;
}

Method FindMethod(const Value& object, std::string_view name) {
  if (!object.is_string() && !object.is_dict() && !object.is_list()) return nullptr;
  const MethodTable& table = object.is_string() ? StringMethods()
                             : object.is_dict() ? DictMethods()
                                                : ListMethods();
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

class BoundMethod : public Callable {
 public:
  BoundMethod(Value self, Method method) : self_(std::move(self)), method_(method) {}
  std::string_view type_name() const override { return "method"; }
  int depth() const override { return self_.depth() + 1; }
  absl::StatusOr<Value> Call(Budget* budget, const Arguments& args) override {
    return method_(budget, self_, args);
  }

 private:
  const Value self_;
  const Method method_;
};

}  // namespace

bool HasMethod(const Value& object, std::string_view name) {
  return FindMethod(object, name) != nullptr;
}

Value BindMethod(const Value& object, std::string_view name) {
  return Value::FromObject(std::make_shared<BoundMethod>(object, FindMethod(object, name)));
}

}  // namespace tessera::jinja
