#include "engine/text/json_stream.h"

#include <string>

#include "engine/text/jinja/json_parse.h"

namespace tessera {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

bool IsHexDigit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// Of words and numbers.
bool IsScalarCharacter(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
         c == '-' || c == '.';
}

enum class Unit { kWhole, kIncomplete, kInvalid };
struct StringUnit {
  Unit kind;
  size_t length;
};

// The length of \uXXXX, or of a surrogate pair of them, is known once it is there; whether it is a
// character is left to the parser of values.
StringUnit UnicodeEscape(std::string_view text) {
  constexpr size_t kDigits = 4;
  constexpr size_t kPrefix = 2;
  for (size_t i = kPrefix; i < kPrefix + kDigits; ++i) {
    if (i >= text.size()) return {Unit::kIncomplete, 0};
    if (!IsHexDigit(text[i])) return {Unit::kInvalid, 0};
  }
  return {Unit::kWhole, kPrefix + kDigits};
}

bool IsHighSurrogate(std::string_view escape) {
  return (escape[2] | 0x20) == 'd' &&
         std::string_view("89abAB").find(escape[3]) != std::string::npos;
}

StringUnit Escape(std::string_view text) {
  if (text.size() < 2) return {Unit::kIncomplete, 0};
  if (std::string_view("\"\\/bfnrt").find(text[1]) != std::string_view::npos) {
    return {Unit::kWhole, 2};
  }
  if (text[1] != 'u') return {Unit::kInvalid, 0};
  StringUnit unit = UnicodeEscape(text);
  if (unit.kind == Unit::kWhole && IsHighSurrogate(text)) {
    const std::string_view rest = text.substr(unit.length);
    if (rest.substr(0, 2) != std::string_view("\\u").substr(0, rest.size())) {
      return {Unit::kInvalid, 0};
    }
    const StringUnit low = UnicodeEscape(rest);
    if (low.kind != Unit::kWhole) return low;
    unit.length += low.length;
  }
  if (unit.kind != Unit::kWhole) return unit;
  const std::string quoted = '"' + std::string(text.substr(0, unit.length)) + '"';
  return jinja::ParseJson(quoted).ok() ? unit : StringUnit{Unit::kInvalid, 0};
}

size_t CharacterLength(unsigned char first) {
  if (first < 0xC0) return 1;
  return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// What stands at the start of a string's rest; not its closing quote.
StringUnit NextStringUnit(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first == '\\') return Escape(text);
  if (first < 0x20) return {Unit::kInvalid, 0};
  if (first < 0x80) return {Unit::kWhole, 1};
  if (text.size() < CharacterLength(first)) return {Unit::kIncomplete, 0};
  const jinja::CodePoint point = jinja::DecodeCodePoint(text, 0);
  return point.value < 0 ? StringUnit{Unit::kInvalid, 0} : StringUnit{Unit::kWhole, point.length};
}

}  // namespace

JsonStream::Event JsonStream::Next(std::string_view text) {
  if (state_ == State::kKeyString || state_ == State::kString) return WalkString(text);
  if (state_ == State::kScalar) return WalkScalar(text);
  if (state_ == State::kValueBegun) return InsideValue(text[at_]);
  while (at_ < text.size() && IsSpace(text[at_])) ++at_;
  return at_ == text.size() ? Event::kNeedMore : AtMark(text[at_]);
}

JsonStream::Event JsonStream::AtMark(char mark) {
  const bool closes = !closers_.empty() && mark == closers_.back();
  switch (state_) {
    case State::kFirstItem:
      return closes ? CloseContainer() : BeginValue();
    case State::kFirstKey:
      if (closes) return CloseContainer();
      [[fallthrough]];
    case State::kKey:
      if (mark != '"') return Event::kBroken;
      token_ = at_++;
      state_ = State::kKeyString;
      return Event::kNone;
    case State::kColon:
      if (mark != ':') return Event::kBroken;
      ++at_;
      state_ = State::kValue;
      return Event::kNone;
    case State::kAfterValue:
      if (closes) return CloseContainer();
      if (mark != ',') return Event::kBroken;
      ++at_;
      state_ = closers_.back() == '}' ? State::kKey : State::kValue;
      return Event::kNone;
    default:
      return BeginValue();
  }
}

JsonStream::Event JsonStream::BeginValue() {
  if (closers_.size() > size_t{jinja::kMaxJsonDepth}) return Event::kBroken;
  state_ = State::kValueBegun;
  return Event::kBegin;
}

JsonStream::Event JsonStream::InsideValue(char first) {
  if (first == '{' || first == '[') {
    closers_.push_back(first == '{' ? '}' : ']');
    state_ = first == '{' ? State::kFirstKey : State::kFirstItem;
    ++at_;
  } else if (first == '"') {
    state_ = State::kString;
    ++at_;
  } else {
    state_ = State::kScalar;
    scalar_end_ = at_;
  }
  return Event::kNone;
}

JsonStream::Event JsonStream::CloseContainer() {
  closers_.pop_back();
  ++at_;
  state_ = State::kAfterValue;
  return Event::kEnd;
}

JsonStream::Event JsonStream::WalkString(std::string_view text) {
  while (at_ < text.size() && text[at_] != '"') {
    const StringUnit unit = NextStringUnit(text.substr(at_));
    if (unit.kind == Unit::kIncomplete) return Event::kNeedMore;
    if (unit.kind == Unit::kInvalid) return Event::kBroken;
    at_ += unit.length;
  }
  if (at_ == text.size()) return Event::kNeedMore;
  ++at_;
  const bool is_key = state_ == State::kKeyString;
  state_ = is_key ? State::kColon : State::kAfterValue;
  return is_key ? Event::kKey : Event::kEnd;
}

// A number's end is known by what follows it.
JsonStream::Event JsonStream::WalkScalar(std::string_view text) {
  while (scalar_end_ < text.size() && IsScalarCharacter(text[scalar_end_])) ++scalar_end_;
  if (scalar_end_ == text.size()) return Event::kNeedMore;
  if (!jinja::ParseJson(text.substr(at_, scalar_end_ - at_)).ok()) return Event::kBroken;
  at_ = scalar_end_;
  state_ = State::kAfterValue;
  return Event::kEnd;
}

}  // namespace tessera
