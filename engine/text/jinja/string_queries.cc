// Methods that ask about a text.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/string_methods.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

// The bytes that a query's optional start and end (characters, as in a slice) leave.
struct Window {
  std::string_view bytes;
  int64_t start;             // characters before it
  bool empty_range = false;  // start > end: nothing is found in it, not even ""
};

absl::StatusOr<Window> WindowOf(Budget* budget, const Value& self, const Arguments& args) {
  const Value* begin = args.Find(1, "start");
  const Value* finish = args.Find(2, "end");
  const std::string_view bytes = self.str();
  RETURN_IF_ERROR(budget->Charge(1 + static_cast<int64_t>(bytes.size())));
  if (begin == nullptr && finish == nullptr) return Window{bytes, 0};
  const std::vector<size_t> offsets = CodePointOffsets(bytes);
  const auto size = static_cast<int64_t>(offsets.size()) - 1;
  int64_t bounds[2] = {0, size};
  for (int i = 0; i < 2; ++i) {
    const Value* given = i == 0 ? begin : finish;
    if (given == nullptr || given->is_none()) continue;
    ASSIGN_OR_RETURN(bounds[i], IntArgument(args, i == 0 ? 1 : 2, i == 0 ? "start" : "end", 0));
    if (bounds[i] < 0) bounds[i] = std::max<int64_t>(bounds[i] + size, 0);
  }
  bounds[1] = std::min(bounds[1], size);
  if (bounds[0] > bounds[1]) return Window{{}, bounds[0], true};
  const size_t first = offsets[static_cast<size_t>(bounds[0])];
  const size_t last = offsets[static_cast<size_t>(bounds[1])];
  return Window{bytes.substr(first, last - first), bounds[0]};
}

using Matches = bool (*)(std::string_view, std::string_view);

// startswith and endswith take one string or a tuple of them.
template <Matches matches>
absl::StatusOr<Value> MatchesAny(Budget* budget, const Value& self, const Arguments& args) {
  if (args.positional.empty()) return absl::InvalidArgumentError("an argument is missing");
  ASSIGN_OR_RETURN(const Window window, WindowOf(budget, self, args));
  const Value& affix = args.positional[0];
  const bool many = affix.is_list() && affix.list().tuple;
  bool found = false;
  for (const Value& item : many ? affix.list().items : std::vector<Value>{affix}) {
    if (!item.is_string()) {
      return absl::InvalidArgumentError(
          Concat("a string or a tuple of strings is needed, not '", item.type_name(), "'"));
    }
    found = found || (!window.empty_range && matches(window.bytes, item.str()));
  }
  return Value::Bool(found);
}

bool StartsWithText(std::string_view text, std::string_view affix) {
  return text.starts_with(affix);
}
bool EndsWithText(std::string_view text, std::string_view affix) { return text.ends_with(affix); }

absl::StatusOr<int64_t> Locate(Budget* budget, const Value& self, const Arguments& args,
                               bool from_right) {
  if (args.positional.empty()) return absl::InvalidArgumentError("an argument is missing");
  ASSIGN_OR_RETURN(const Text needle, TextArgument(args, 0, "sub", ""));
  ASSIGN_OR_RETURN(const Window window, WindowOf(budget, self, args));
  if (window.empty_range) return -1;
  const size_t at =
      from_right ? window.bytes.rfind(needle.bytes()) : window.bytes.find(needle.bytes());
  if (at == std::string_view::npos) return -1;
  return window.start + static_cast<int64_t>(CountCodePoints(window.bytes.substr(0, at)));
}
template <bool from_right, bool must>
absl::StatusOr<Value> Find(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const int64_t at, Locate(budget, self, args, from_right));
  if (must && at < 0) return absl::InvalidArgumentError("the text was not found");
  return Value::Int(at);
}

absl::StatusOr<Value> Count(Budget* budget, const Value& self, const Arguments& args) {
  ASSIGN_OR_RETURN(const Text needle, TextArgument(args, 0, "sub", ""));
  ASSIGN_OR_RETURN(const Window window, WindowOf(budget, self, args));
  if (window.empty_range) return Value::Int(0);
  if (needle.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(window.bytes)) + 1);
  int64_t count = 0;
  for (size_t at = window.bytes.find(needle.bytes()); at != std::string_view::npos;
       at = window.bytes.find(needle.bytes(), at + needle.size())) {
    ++count;
  }
  return Value::Int(count);
}

using Is = bool (*)(int32_t);

template <Is is>
absl::StatusOr<Value> AllCharacters(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(self.str().size())));
  for (size_t at = 0; at < self.str().size();) {
    const CodePoint point = DecodeCodePoint(self.str(), at);
    if (!is(point.value)) return Value::Bool(false);
    at += point.length;
  }
  return Value::Bool(!self.str().empty());
}
// The empty text is ASCII and printable, unlike all else.
template <Is is>
absl::StatusOr<Value> NoOther(Budget* budget, const Value& self, const Arguments& args) {
  if (self.str().empty()) return Value::Bool(true);
  return AllCharacters<is>(budget, self, args);
}
bool IsAscii(int32_t c) { return c >= 0 && c < 0x80; }

template <Is wanted, Is other>
absl::StatusOr<Value> HasCase(Budget* budget, const Value& self, const Arguments&) {
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

// Upper case only at the start of words, lower case only inside.
absl::StatusOr<Value> IsTitle(Budget* budget, const Value& self, const Arguments&) {
  RETURN_IF_ERROR(budget->Charge(static_cast<int64_t>(self.str().size())));
  bool in_word = false;
  bool found = false;
  for (size_t at = 0; at < self.str().size();) {
    const CodePoint point = DecodeCodePoint(self.str(), at);
    const bool lower = IsLower(point.value);
    const bool cased = lower || IsCased(point.value);
    if (cased && lower != in_word) return Value::Bool(false);
    found |= cased;
    in_word = cased;
    at += point.length;
  }
  return Value::Bool(found);
}

}  // namespace

const MethodTable& StringQueries() {
  static const auto* const kMethods = new MethodTable{
      {"count", Count},
      {"endswith", MatchesAny<EndsWithText>},
      {"find", Find<false, false>},
      {"index", Find<false, true>},
      {"isalnum", AllCharacters<IsAlphanumeric>},
      {"isalpha", AllCharacters<IsLetter>},
      {"isascii", NoOther<IsAscii>},
      {"isdecimal", AllCharacters<IsDigit>},
      {"isdigit", AllCharacters<IsDigitLike>},
      {"islower", HasCase<IsLower, IsUpper>},
      {"isnumeric", AllCharacters<IsNumeric>},
      {"isprintable", NoOther<IsPrintable>},
      {"isspace", AllCharacters<IsSpace>},
      {"istitle", IsTitle},
      {"isupper", HasCase<IsUpper, IsLower>},
      {"rfind", Find<true, false>},
      {"rindex", Find<true, true>},
      {"startswith", MatchesAny<StartsWithText>},
  };
  return *kMethods;
}

}  // namespace tessera::jinja
