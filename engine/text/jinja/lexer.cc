#include "engine/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/text.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace tessera::jinja {

absl::Status SyntaxError(int line, std::string_view message) {
  return absl::InvalidArgumentError(Concat("template line ", line, ": ", message));
}

namespace {

constexpr std::array<std::string_view, 25> kOperators = {
    // Longest first.
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ","};

// Unix line ends; one trailing newline is dropped.
std::string Normalize(std::string_view source) {
  std::string text = absl::StrReplaceAll(ToAbsl(source), {{"\r\n", "\n"}, {"\r", "\n"}});
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool IsNameStart(char c) {
  return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNameByte(char c) {
  return IsNameStart(c) || absl::ascii_isdigit(static_cast<unsigned char>(c));
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(LexTextAndTag());
    Emit(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool LooksAt(std::string_view word) const { return Rest().substr(0, word.size()) == word; }

  void Emit(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  // Moves to `end`; whether the last byte passed was a newline decides lstrip of what follows.
  void AdvanceTo(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    if (end > at_) line_starts_here_ = source_[end - 1] == '\n';
    at_ = end;
  }

  // The text before a tag, shortened as the tag's sign and lstrip_blocks ask.
  std::string TrimBeforeTag(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') {
      return std::string(text.substr(0, StripRange(text, nullptr, {.left = false}).end));
    }
    if (sign == '+' || is_variable) return std::string(text);
    const size_t newline = text.rfind('\n');
    if (newline == std::string_view::npos && !line_starts_here_) return std::string(text);
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    const std::string_view indent = text.substr(line_begin);
    const Span rest = StripRange(indent, nullptr, {});
    return std::string(rest.begin == rest.end ? text.substr(0, line_begin) : text);
  }

  void EmitText(std::string_view text, char sign, bool is_variable) {
    std::string trimmed = TrimBeforeTag(text, sign, is_variable);
    if (!trimmed.empty()) Emit(TokenKind::kText, std::move(trimmed));
  }

  size_t FindTag() const {
    for (size_t i = source_.find('{', at_); i != std::string::npos; i = source_.find('{', i + 1)) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return std::string::npos;
  }

  absl::Status LexTextAndTag() {
    const size_t tag = FindTag();
    if (tag == std::string::npos) {
      Emit(TokenKind::kText, std::string(Rest()));
      AdvanceTo(source_.size());
      return absl::OkStatus();
    }
    const char kind = source_[tag + 1];
    char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    // "{{-" and "{%-" strip; "{{+" is an expression that starts with a plus sign.
    if (sign != '-' && (sign != '+' || kind == '{')) sign = '\0';
    EmitText(std::string_view(source_).substr(at_, tag - at_), sign, kind == '{');
    AdvanceTo(tag);
    const size_t inside = tag + 2 + (sign != '\0' ? 1 : 0);
    if (kind == '#') return SkipComment(inside);
    size_t raw_end = 0;
    if (kind == '%' && IsRawTag(inside, &raw_end)) return LexRaw(raw_end);
    Emit(kind == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
    AdvanceTo(inside);
    return LexExpression(kind == '{');
  }

  // Consumes the end of a block-like tag at `end` (just behind "%}" or "#}") for the given sign.
  void FinishBlock(size_t end, char sign) {
    if (sign == '-') {
      end += StripRange(std::string_view(source_).substr(end), nullptr, {.right = false}).begin;
    } else if (sign != '+' && end < source_.size() && source_[end] == '\n') {
      ++end;
    }
    AdvanceTo(end);
  }

  absl::Status SkipComment(size_t inside) {
    const size_t end = source_.find("#}", inside);
    if (end == std::string::npos) return SyntaxError(line_, "the comment has no end '#}'");
    const char sign = end > inside ? source_[end - 1] : '\0';
    FinishBlock(end + 2, sign);
    return absl::OkStatus();
  }

  size_t SkipSpaces(size_t at) const {
    while (at < source_.size() && absl::ascii_isspace(static_cast<unsigned char>(source_[at]))) {
      ++at;
    }
    return at;
  }

  bool IsRawTag(size_t inside, size_t* end) const {
    size_t at = SkipSpaces(inside);
    if (source_.compare(at, 3, "raw") != 0) return false;
    at = SkipSpaces(at + 3);
    const bool strip = at < source_.size() && source_[at] == '-';
    if (strip) ++at;
    if (source_.compare(at, 2, "%}") != 0) return false;
    *end = strip ? SkipSpaces(at + 2) : at + 2;
    return true;
  }

  absl::Status LexRaw(size_t body) {
    const int first_line = line_;
    AdvanceTo(body);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      size_t at = tag + 2;
      char sign = at < source_.size() ? source_[at] : '\0';
      if (sign != '-' && sign != '+') sign = '\0';
      at = SkipSpaces(at + (sign != '\0' ? 1 : 0));
      if (source_.compare(at, 6, "endraw") != 0) continue;
      at = SkipSpaces(at + 6);
      char end_sign = at < source_.size() ? source_[at] : '\0';
      if (end_sign == '-' || end_sign == '+') ++at;
      if (source_.compare(at, 2, "%}") != 0) continue;
      EmitText(std::string_view(source_).substr(at_, tag - at_), sign, false);
      AdvanceTo(tag);
      FinishBlock(at + 2, end_sign);
      return absl::OkStatus();
    }
    return SyntaxError(first_line, "the raw block has no endraw");
  }

  absl::Status LexExpression(bool is_variable) {
    const int first_line = line_;
    std::vector<char> open;
    while (at_ < source_.size()) {
      const size_t next = SkipSpaces(at_);
      AdvanceTo(next);
      if (next >= source_.size()) break;
      if (open.empty() && LexTagEnd(is_variable)) return absl::OkStatus();
      RETURN_IF_ERROR(LexToken(&open));
    }
    return SyntaxError(first_line, is_variable ? "'{{' has no '}}'" : "'{%' has no '%}'");
  }

  bool LexTagEnd(bool is_variable) {
    const std::string_view end = is_variable ? "}}" : "%}";
    char sign = source_[at_];
    if (sign != '-' && (sign != '+' || is_variable)) sign = '\0';
    const size_t close = at_ + (sign != '\0' ? 1 : 0);
    if (std::string_view(source_).substr(close, 2) != end) return false;
    Emit(is_variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
    if (!is_variable) {
      FinishBlock(close + 2, sign);
    } else if (sign == '-') {
      FinishBlock(close + 2, '-');
    } else {
      AdvanceTo(close + 2);
    }
    return true;
  }

  absl::Status LexToken(std::vector<char>* open) {
    const char c = source_[at_];
    if (c == '"' || c == '\'') return LexString(c);
    if (absl::ascii_isdigit(static_cast<unsigned char>(c))) return LexNumber();
    if (IsNameStart(c)) {
      size_t end = at_;
      while (end < source_.size() && IsNameByte(source_[end])) ++end;
      Emit(TokenKind::kName, source_.substr(at_, end - at_));
      AdvanceTo(end);
      return absl::OkStatus();
    }
    for (const std::string_view op : kOperators) {
      if (!LooksAt(op)) continue;
      RETURN_IF_ERROR(Balance(op[0], open));
      Emit(TokenKind::kOperator, std::string(op));
      AdvanceTo(at_ + op.size());
      return absl::OkStatus();
    }
    return SyntaxError(line_, Concat("unexpected character '", std::string(1, c), "'"));
  }

  absl::Status Balance(char bracket, std::vector<char>* open) {
    static constexpr std::string_view kOpening = "([{";
    static constexpr std::string_view kClosing = ")]}";
    if (kOpening.find(bracket) != std::string_view::npos) open->push_back(bracket);
    const size_t kind = kClosing.find(bracket);
    if (kind == std::string_view::npos) return absl::OkStatus();
    if (open->empty() || open->back() != kOpening[kind]) {
      return SyntaxError(line_, Concat("unexpected '", std::string(1, bracket), "'"));
    }
    open->pop_back();
    return absl::OkStatus();
  }

  size_t DigitsEnd(size_t at, bool (*is_digit)(unsigned char)) const {
    while (at < source_.size()) {
      if (is_digit(static_cast<unsigned char>(source_[at]))) {
        ++at;
      } else if (source_[at] == '_' && at + 1 < source_.size() &&
                 is_digit(static_cast<unsigned char>(source_[at + 1]))) {
        at += 2;
      } else {
        break;
      }
    }
    return at;
  }

  static bool IsDecimal(unsigned char c) { return absl::ascii_isdigit(c); }
  static bool IsHex(unsigned char c) { return absl::ascii_isxdigit(c); }

  absl::Status LexNumber() {
    const char marker = at_ + 1 < source_.size() ? absl::ascii_tolower(source_[at_ + 1]) : '\0';
    if (source_[at_] == '0' && (marker == 'x' || marker == 'o' || marker == 'b')) {
      return LexBasedInteger(marker == 'x' ? 16 : marker == 'o' ? 8 : 2);
    }
    size_t end = DigitsEnd(at_, IsDecimal);
    bool is_float = false;
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    if (!after_dot && end + 1 < source_.size() && source_[end] == '.' &&
        IsDecimal(static_cast<unsigned char>(source_[end + 1]))) {
      end = DigitsEnd(end + 1, IsDecimal);
      is_float = true;
    }
    if (!after_dot && end < source_.size() && absl::ascii_tolower(source_[end]) == 'e') {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
        ++exponent;
      }
      const size_t exponent_end = DigitsEnd(exponent, IsDecimal);
      if (exponent_end > exponent) {
        end = exponent_end;
        is_float = true;
      }
    }
    std::string digits = absl::StrReplaceAll(source_.substr(at_, end - at_), {{"_", ""}});
    Emit(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(digits));
    AdvanceTo(end);
    return absl::OkStatus();
  }

  absl::Status LexBasedInteger(int base) {
    const size_t end = DigitsEnd(at_ + 2, IsHex);
    const std::string digits =
        absl::StrReplaceAll(source_.substr(at_ + 2, end - at_ - 2), {{"_", ""}});
    int64_t value = 0;
    const auto [parsed, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (error != std::errc() || parsed != digits.data() + digits.size()) {
      return SyntaxError(line_, "invalid integer");
    }
    Emit(TokenKind::kInteger, Concat(value));
    AdvanceTo(end);
    return absl::OkStatus();
  }

  absl::Status LexString(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return SyntaxError(line_, "the string has no end");
    std::string text;
    const std::string_view literal = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    for (size_t i = 0; i < literal.size();) {
      if (literal[i] != '\\') {
        text.push_back(literal[i++]);
      } else if (!Unescape(literal, &i, &text)) {
        return SyntaxError(line_, "invalid escape sequence in a string");
      }
    }
    Emit(TokenKind::kString, std::move(text));
    AdvanceTo(end + 1);
    return absl::OkStatus();
  }

  // Python's rules; an unknown escape keeps its backslash.
  static bool Unescape(std::string_view literal, size_t* i, std::string* text) {
    static constexpr std::string_view kLetters = "\\'\"abfnrtv";
    static constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
    if (*i + 1 >= literal.size()) return false;
    const char letter = literal[*i + 1];
    *i += 2;
    if (letter == '\n') return true;
    if (const size_t k = kLetters.find(letter); k != std::string_view::npos) {
      text->push_back(kMeanings[k]);
      return true;
    }
    if (letter >= '0' && letter <= '7') {
      uint32_t code = 0;
      --*i;
      for (int n = 0; n < 3 && *i < literal.size(); ++n, ++*i) {
        if (literal[*i] < '0' || literal[*i] > '7') break;
        code = code * 8 + static_cast<uint32_t>(literal[*i] - '0');
      }
      AppendUtf8(code, text);
      return true;
    }
    const size_t width = letter == 'x' ? 2 : letter == 'u' ? 4 : letter == 'U' ? 8 : 0;
    if (width == 0) {
      text->push_back('\\');
      text->push_back(letter);
      return letter != 'N';
    }
    return UnescapeHex(literal, width, i, text);
  }

  static bool UnescapeHex(std::string_view literal, size_t width, size_t* i, std::string* text) {
    uint32_t code = 0;
    const std::string_view digits = literal.substr(*i, width);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != width || error != std::errc() || end != digits.data() + width) {
      return false;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
    AppendUtf8(code, text);
    *i += width;
    return true;
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starts_here_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  for (size_t at = 0; at < source.size();) {
    const CodePoint point = DecodeCodePoint(source, at);
    if (point.value < 0) {
      return absl::InvalidArgumentError(Concat("the template is not valid UTF-8 at byte ", at));
    }
    at += point.length;
  }
  return Lexer(Normalize(source)).Run();
}

}  // namespace tessera::jinja
