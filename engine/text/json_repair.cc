#include "engine/text/json_repair.h"

#include <algorithm>
#include <utility>

#include "engine/text/jinja/json_parse.h"

namespace tessera {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }
// Of words and numbers.
bool IsScalarCharacter(char c) {
  return IsDigit(c) || IsLetter(c) || c == '+' || c == '-' || c == '.';
}
bool IsKeyStart(char c) { return IsLetter(c) || c == '_' || c == '$'; }
bool IsKeyCharacter(char c) { return IsKeyStart(c) || IsDigit(c) || c == '-'; }

int HexValue(char c) {
  if (IsDigit(c)) return c - '0';
  c = Lower(c);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

constexpr size_t kEscapeLength = 6;  // \uXXXX
constexpr int kFirstHigh = 0xD800;
constexpr int kFirstLow = 0xDC00;
constexpr int kLastLow = 0xDFFF;

enum class Escape : uint8_t { kNone, kPartial, kWhole };
struct UnicodeEscape {
  Escape kind = Escape::kNone;
  int value = 0;
};

// \uXXXX at the start of `text`.
UnicodeEscape ReadUnicodeEscape(std::string_view text) {
  UnicodeEscape escape;
  for (size_t i = 0; i < kEscapeLength; ++i) {
    if (i >= text.size()) return {Escape::kPartial, 0};
    if (i < 2) {
      if (text[i] != "\\u"[i]) return {};
      continue;
    }
    const int digit = HexValue(text[i]);
    if (digit < 0) return {};
    escape.value = escape.value * 16 + digit;
  }
  escape.kind = Escape::kWhole;
  return escape;
}

bool IsJson(const std::string& text) { return jinja::ParseJson(text).ok(); }

// [sign] digits [. digits] [exponent] with what JSON asks for beside signs, zeros and points.
std::string RepairNumber(std::string_view word) {
  std::string number;
  if (word.starts_with('-')) number = "-";
  if (word.starts_with('-') || word.starts_with('+')) word.remove_prefix(1);
  const size_t whole = std::min(word.find_first_of(".eE"), word.size());
  std::string_view digits = word.substr(0, whole);
  while (digits.size() > 1 && digits[0] == '0') digits.remove_prefix(1);
  number += digits.empty() ? "0" : digits;
  word.remove_prefix(whole);
  if (digits.empty() && (word.size() < 2 || !IsDigit(word[1]))) return "";
  if (word.starts_with('.')) {
    const size_t end = std::min(word.find_first_of("eE"), word.size());
    number += word.substr(0, end);
    if (end == 1) number += '0';
    word.remove_prefix(end);
  }
  number += word;
  return IsJson(number) ? number : "";
}

// JSON for a word or a number; empty if it is neither.
std::string RepairScalar(std::string_view word) {
  std::string text(word);
  if (IsJson(text)) return text;
  std::transform(text.begin(), text.end(), text.begin(), Lower);
  if (text == "none") return "null";
  if (text == "true" || text == "false" || text == "null") return text;
  return RepairNumber(word);
}

size_t CharacterLength(unsigned char first) {
  if (first < 0xC0) return 1;
  return first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// One byte that JSON strings cannot hold as it is.
void AppendEscapedByte(char byte, std::string* json) {
  constexpr std::string_view kBytes = "\"\\\b\f\n\r\t";
  constexpr std::string_view kNames = "\"\\bfnrt";
  constexpr char kDigits[] = "0123456789abcdef";
  *json += '\\';
  if (const size_t at = kBytes.find(byte); at != std::string_view::npos) {
    *json += kNames[at];
    return;
  }
  *json += "u00";
  *json += kDigits[static_cast<unsigned char>(byte) >> 4];
  *json += kDigits[byte & 15];
}

}  // namespace

JsonRepair::Event JsonRepair::Next(std::string_view text, bool at_end) {
  switch (state_) {
    case State::kKeyString:
    case State::kString:
      return WalkString(text);
    case State::kScalar:
      return WalkScalar(text, at_end);
    case State::kBareKey:
      return WalkBareKey(text);
    case State::kValueBegun:
      return InsideValue(text[at_]);
    default:
      break;
  }
  SkipSpace(text);
  return at_ == text.size() ? Event::kNeedMore : AtMark(text[at_]);
}

void JsonRepair::SkipSpace(std::string_view text) {
  const size_t begin = at_;
  while (at_ < text.size() && IsSpace(text[at_])) ++at_;
  (comma_.empty() ? json_ : comma_) += text.substr(begin, at_ - begin);
}

void JsonRepair::FlushComma() { json_ += std::exchange(comma_, {}); }

JsonRepair::Event JsonRepair::AtMark(char mark) {
  const bool closes = !closers_.empty() && mark == closers_.back();
  switch (state_) {
    case State::kFirstItem:
    case State::kItem:
      return closes ? CloseContainer() : BeginValue(mark);
    case State::kFirstKey:
    case State::kKey:
      return closes ? CloseContainer() : BeginKey(mark);
    case State::kColon:
      if (mark != ':') return Event::kBroken;
      json_ += mark;
      ++at_;
      state_ = State::kValue;
      return Event::kNone;
    case State::kAfterValue:
      if (closes) return CloseContainer();
      if (mark != ',') return Event::kBroken;
      comma_ = mark;
      ++at_;
      state_ = closers_.back() == '}' ? State::kKey : State::kItem;
      return Event::kNone;
    default:
      return BeginValue(mark);
  }
}

JsonRepair::Event JsonRepair::BeginKey(char mark) {
  const bool is_quoted = mark == '"' || mark == '\'';
  if (!is_quoted && !IsKeyStart(mark)) return Event::kBroken;
  FlushComma();
  token_ = json_.size();
  json_ += '"';
  quote_ = mark;
  state_ = is_quoted ? State::kKeyString : State::kBareKey;
  if (is_quoted) ++at_;
  word_end_ = at_;
  return Event::kNone;
}

JsonRepair::Event JsonRepair::BeginValue(char first) {
  const bool is_value =
      std::string_view("{[(\"'").find(first) != std::string_view::npos || IsScalarCharacter(first);
  if (!is_value || closers_.size() > size_t{jinja::kMaxJsonDepth}) return Event::kBroken;
  FlushComma();
  state_ = State::kValueBegun;
  return Event::kBegin;
}

JsonRepair::Event JsonRepair::InsideValue(char first) {
  if (first == '"' || first == '\'') {
    json_ += '"';
    quote_ = first;
    state_ = State::kString;
    ++at_;
  } else if (first == '{' || first == '[' || first == '(') {
    json_ += first == '{' ? '{' : '[';
    closers_.push_back(first == '{' ? '}' : first == '[' ? ']' : ')');
    state_ = first == '{' ? State::kFirstKey : State::kFirstItem;
    ++at_;
  } else {
    state_ = State::kScalar;
    word_end_ = at_;
  }
  return Event::kNone;
}

JsonRepair::Event JsonRepair::CloseContainer() {
  ++at_;
  return Close();
}

bool JsonRepair::CanClose() const {
  return state_ == State::kFirstItem || state_ == State::kItem || state_ == State::kFirstKey ||
         state_ == State::kKey || state_ == State::kAfterValue;
}

JsonRepair::Event JsonRepair::Close() {
  // A comma in front of the bracket is one too many.
  if (!comma_.empty()) json_ += std::exchange(comma_, {}).substr(1);
  json_ += closers_.back() == '}' ? '}' : ']';
  closers_.pop_back();
  state_ = State::kAfterValue;
  return Event::kEnd;
}

void JsonRepair::Take(std::string_view text, size_t count) {
  json_ += text.substr(at_, count);
  at_ += count;
}

JsonRepair::Unit JsonRepair::TakeUnicodeEscape(std::string_view text) {
  const UnicodeEscape escape = ReadUnicodeEscape(text.substr(at_));
  if (escape.kind == Escape::kPartial) return Unit::kIncomplete;
  if (escape.kind == Escape::kNone) {
    json_ += "\\\\";
    ++at_;
    return Unit::kTaken;
  }
  size_t length = kEscapeLength;
  bool is_character = escape.value < kFirstHigh || escape.value > kLastLow;
  if (escape.value >= kFirstHigh && escape.value < kFirstLow) {
    const UnicodeEscape low = ReadUnicodeEscape(text.substr(at_ + kEscapeLength));
    if (low.kind == Escape::kPartial) return Unit::kIncomplete;
    is_character = low.kind == Escape::kWhole && low.value >= kFirstLow && low.value <= kLastLow;
    if (is_character) length += kEscapeLength;
  }
  if (is_character) {
    Take(text, length);
  } else {
    json_ += "\\ufffd";
    at_ += length;
  }
  return Unit::kTaken;
}

JsonRepair::Unit JsonRepair::TakeEscape(std::string_view text) {
  if (text.size() < at_ + 2) return Unit::kIncomplete;
  const char name = text[at_ + 1];
  if (name == 'u') return TakeUnicodeEscape(text);
  if (std::string_view("\"\\/bfnrt").find(name) != std::string_view::npos) {
    Take(text, 2);
  } else if (name == '\'') {
    json_ += '\'';
    at_ += 2;
  } else {
    // A backslash that means itself.
    json_ += "\\\\";
    ++at_;
  }
  return Unit::kTaken;
}

JsonRepair::Unit JsonRepair::TakeCharacter(std::string_view text) {
  if (text[at_] == '\\') return TakeEscape(text);
  const std::string_view rest = text.substr(at_);
  const size_t length = std::min(CharacterLength(static_cast<unsigned char>(rest[0])), rest.size());
  const size_t taken = AppendJsonEscaped(rest.substr(0, length), &json_);
  at_ += taken;
  if (taken > 0) return Unit::kTaken;
  return IsPartOfCharacter(rest) ? Unit::kIncomplete : Unit::kInvalid;
}

JsonRepair::Event JsonRepair::WalkString(std::string_view text) {
  while (at_ < text.size() && text[at_] != quote_) {
    const Unit unit = TakeCharacter(text);
    if (unit == Unit::kIncomplete) return Event::kNeedMore;
    if (unit == Unit::kInvalid) return Event::kBroken;
  }
  if (at_ == text.size()) return Event::kNeedMore;
  ++at_;
  json_ += '"';
  const bool is_key = state_ == State::kKeyString;
  state_ = is_key ? State::kColon : State::kAfterValue;
  return is_key ? Event::kKey : Event::kEnd;
}

// A number's end is known by what follows it.
JsonRepair::Event JsonRepair::WalkScalar(std::string_view text, bool at_end) {
  while (word_end_ < text.size() && IsScalarCharacter(text[word_end_])) ++word_end_;
  if (word_end_ == text.size() && !at_end) return Event::kNeedMore;
  const std::string word = RepairScalar(text.substr(at_, word_end_ - at_));
  if (word.empty()) return Event::kBroken;
  json_ += word;
  at_ = word_end_;
  state_ = State::kAfterValue;
  return Event::kEnd;
}

JsonRepair::Event JsonRepair::WalkBareKey(std::string_view text) {
  while (word_end_ < text.size() && IsKeyCharacter(text[word_end_])) ++word_end_;
  if (word_end_ == text.size()) return Event::kNeedMore;
  Take(text, word_end_ - at_);
  json_ += '"';
  state_ = State::kColon;
  return Event::kKey;
}

std::optional<std::string> RepairJson(std::string_view text) {
  JsonRepair repair;
  while (true) {
    const JsonRepair::Event event = repair.Next(text, /*at_end=*/true);
    if (event == JsonRepair::Event::kBroken || event == JsonRepair::Event::kNeedMore) {
      return std::nullopt;
    }
    if (event == JsonRepair::Event::kEnd && repair.depth() == 0) break;
  }
  const bool whole = std::all_of(text.begin() + static_cast<std::ptrdiff_t>(repair.position()),
                                 text.end(), IsSpace);
  return whole ? std::optional(repair.json()) : std::nullopt;
}

size_t AppendJsonEscaped(std::string_view text, std::string* json) {
  size_t at = 0;
  while (at < text.size()) {
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < 0x20 || first == '"' || first == '\\') {
      AppendEscapedByte(text[at++], json);
    } else if (first < 0x80) {
      *json += text[at++];
    } else {
      if (text.size() - at < CharacterLength(first)) break;
      const jinja::CodePoint point = jinja::DecodeCodePoint(text, at);
      if (point.value < 0) break;
      *json += text.substr(at, point.length);
      at += point.length;
    }
  }
  return at;
}

bool IsPartOfCharacter(std::string_view text) {
  if (text.empty()) return false;
  const auto first = static_cast<unsigned char>(text[0]);
  return first >= 0xC0 && text.size() < CharacterLength(first);
}

}  // namespace tessera
