#include "engine/text/jinja/json_parse.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {
namespace {

class JsonParser {
 public:
  JsonParser(std::string_view json, Provenance provenance) : json_(json), provenance_(provenance) {}

  absl::StatusOr<Value> ParseDocument() {
    ASSIGN_OR_RETURN(Value value, ParseValue(0));
    SkipSpace();
    if (at_ != json_.size()) return Error("nothing more");
    return value;
  }

 private:
  absl::Status Error(std::string_view expected) const {
    return absl::InvalidArgumentError(
        Concat("invalid JSON at byte ", at_, ": expected ", expected));
  }

  void SkipSpace() {
    while (at_ < json_.size() &&
           (json_[at_] == ' ' || json_[at_] == '\n' || json_[at_] == '\t' || json_[at_] == '\r')) {
      ++at_;
    }
  }

  bool Accept(char c) {
    if (at_ >= json_.size() || json_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool AcceptWord(std::string_view word) {
    if (json_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  absl::StatusOr<Value> ParseValue(int depth) {
    if (depth > kMaxJsonDepth) return Error(Concat("at most ", kMaxJsonDepth, " levels"));
    SkipSpace();
    if (at_ >= json_.size()) return Error("a value");
    switch (json_[at_]) {
      case '{':
        return ParseObject(depth);
      case '[':
        return ParseArray(depth);
      case '"': {
        ASSIGN_OR_RETURN(std::string text, ParseString());
        return Value::String(std::move(text), provenance_);
      }
      default:
        break;
    }
    if (AcceptWord("true")) return Value::Bool(true);
    if (AcceptWord("false")) return Value::Bool(false);
    if (AcceptWord("null")) return Value::MakeNone();
    return ParseNumber();
  }

  absl::StatusOr<Value> ParseObject(int depth) {
    ++at_;
    Dict dict;
    SkipSpace();
    if (Accept('}')) return Value::MakeDict(std::move(dict));
    while (true) {
      SkipSpace();
      if (at_ >= json_.size() || json_[at_] != '"') return Error("a key in double quotes");
      ASSIGN_OR_RETURN(std::string key, ParseString());
      SkipSpace();
      if (!Accept(':')) return Error("':'");
      ASSIGN_OR_RETURN(Value value, ParseValue(depth + 1));
      dict.Set(Value::String(std::move(key), provenance_), std::move(value));
      SkipSpace();
      if (Accept('}')) return Value::MakeDict(std::move(dict));
      if (!Accept(',')) return Error("',' or '}'");
    }
  }

  absl::StatusOr<Value> ParseArray(int depth) {
    ++at_;
    std::vector<Value> items;
    SkipSpace();
    if (Accept(']')) return Value::MakeList(std::move(items));
    while (true) {
      ASSIGN_OR_RETURN(Value value, ParseValue(depth + 1));
      items.push_back(std::move(value));
      SkipSpace();
      if (Accept(']')) return Value::MakeList(std::move(items));
      if (!Accept(',')) return Error("',' or ']'");
    }
  }

  absl::StatusOr<std::string> ParseString() {
    ++at_;
    std::string text;
    while (at_ < json_.size()) {
      const char c = json_[at_];
      if (c == '"') {
        ++at_;
        return text;
      }
      if (c == '\\') {
        RETURN_IF_ERROR(ParseEscape(&text));
        continue;
      }
      if (static_cast<unsigned char>(c) < 0x20) return Error("an escaped control character");
      const CodePoint point = DecodeCodePoint(json_, at_);
      if (point.value < 0) return Error("valid UTF-8");
      text.append(json_, at_, point.length);
      at_ += point.length;
    }
    return Error("'\"' at the end of the string");
  }

  absl::Status ParseEscape(std::string* text) {
    static constexpr std::string_view kLetters = "\"\\/bfnrt";
    static constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    if (at_ + 1 >= json_.size()) return Error("an escape sequence");
    const char letter = json_[at_ + 1];
    if (const size_t i = kLetters.find(letter); i != std::string_view::npos) {
      text->push_back(kMeanings[i]);
      at_ += 2;
      return absl::OkStatus();
    }
    uint32_t unit = 0;
    if (letter != 'u' || !ReadHex(at_ + 2, &unit)) return Error("an escape sequence");
    size_t length = 6;
    if (unit >= 0xD800 && unit < 0xDC00) {
      uint32_t low = 0;
      if (json_.substr(at_ + 6, 2) != "\\u" || !ReadHex(at_ + 8, &low) || low < 0xDC00 ||
          low > 0xDFFF) {
        return Error("a surrogate pair");
      }
      unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
      length = 12;
    } else if (unit >= 0xDC00 && unit <= 0xDFFF) {
      return Error("a surrogate pair");
    }
    AppendUtf8(unit, text);
    at_ += length;
    return absl::OkStatus();
  }

  bool ReadHex(size_t offset, uint32_t* unit) const {
    const std::string_view digits =
        offset <= json_.size() ? json_.substr(offset, 4) : std::string_view();
    if (digits.size() != 4) return false;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + 4, *unit, 16);
    return error == std::errc() && end == digits.data() + 4;
  }

  size_t SkipDigits() {
    const size_t begin = at_;
    while (at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9') ++at_;
    return at_ - begin;
  }

  absl::StatusOr<Value> ParseNumber() {
    const size_t begin = at_;
    Accept('-');
    const bool leading_zero = at_ < json_.size() && json_[at_] == '0';
    const size_t digits = SkipDigits();
    if (digits == 0) return Error("a value");
    if (leading_zero && digits > 1) return Error("a number without leading zeros");
    bool integer = true;
    if (Accept('.')) {
      integer = false;
      if (SkipDigits() == 0) return Error("digits after the decimal point");
    }
    if (Accept('e') || Accept('E')) {
      integer = false;
      if (!Accept('+')) Accept('-');
      if (SkipDigits() == 0) return Error("digits of the exponent");
    }
    const std::string_view number = json_.substr(begin, at_ - begin);
    if (integer) return MakeInteger(number);
    double value = 0;
    if (!absl::SimpleAtod(ToAbsl(number), &value)) return Error("a number");
    if (std::isinf(value)) return Error("a number in the range of a double");
    return Value::Float(value);
  }

  static Value MakeInteger(std::string_view digits) {
    int64_t value = 0;
    if (absl::SimpleAtoi(ToAbsl(digits), &value)) return Value::Int(value);
    return Value::Big(std::string(digits));
  }

  const std::string_view json_;
  const Provenance provenance_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<Value> ParseJson(std::string_view json, Provenance provenance) {
  return JsonParser(json, provenance).ParseDocument();
}

}  // namespace tessera::jinja
