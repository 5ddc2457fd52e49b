#include "engine/text/pretokenizer.h"

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// PCRE2's \s also has U+180E, which the tokenizer's own regular expressions do not count as space;
// so the set is spelled out (the White_Space property of Unicode 15.0).
constexpr char kSpaceSet[] =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

std::string PatternForPcre2() {
  // One pass from left to right, so the one \s inside brackets is taken with its bracket.
  return absl::StrReplaceAll(std::string(kQwenSplitPattern),
                             {{R"([^\s)", absl::StrCat("[^", kSpaceSet)},
                              {R"(\s)", absl::StrCat("[", kSpaceSet, "]")},
                              {R"(\S)", absl::StrCat("[^", kSpaceSet, "]")}});
}

enum class AsciiClass : uint8_t { kLetter, kDigit, kSpace, kLineBreak, kOther, kNotAscii };

constexpr std::array<AsciiClass, 256> MakeAsciiClasses() {
  std::array<AsciiClass, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    AsciiClass& entry = classes[static_cast<size_t>(c)];
    if (c >= 0x80) {
      entry = AsciiClass::kNotAscii;
    } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      entry = AsciiClass::kLetter;
    } else if (c >= '0' && c <= '9') {
      entry = AsciiClass::kDigit;
    } else if (c == '\r' || c == '\n') {
      entry = AsciiClass::kLineBreak;
    } else if (c == ' ' || (c >= 0x09 && c <= 0x0D)) {
      entry = AsciiClass::kSpace;
    } else {
      entry = AsciiClass::kOther;
    }
  }
  return classes;
}

constexpr std::array<AsciiClass, 256> kAsciiClasses = MakeAsciiClasses();

// Finds the end of the piece at the start of `text` where ASCII alone decides it. Each function
// tries one group of the pattern's alternatives; all of them answer kUndecided when the answer
// depends on a byte above 0x7F.
class AsciiPiece {
 public:
  static constexpr size_t kUndecided = 0;

  explicit AsciiPiece(std::string_view text) : text_(text) {}

  size_t End() const {
    switch (ClassAt(0)) {
      case AsciiClass::kLetter:
        return WordEnd(1);
      case AsciiClass::kDigit:
        return 1;
      case AsciiClass::kLineBreak:
        return SpaceEnd();
      case AsciiClass::kSpace:
        return AfterSpace();
      case AsciiClass::kOther:
        return AfterOther();
      case AsciiClass::kNotAscii:
        break;
    }
    return kUndecided;
  }

 private:
  bool AtEnd(size_t i) const { return i >= text_.size(); }

  // The class of byte i; past the end, a class that ends every run and decides every case: a
  // space, which no other alternative joins to what stands before it.
  AsciiClass ClassAt(size_t i) const {
    return AtEnd(i) ? AsciiClass::kSpace : kAsciiClasses[static_cast<uint8_t>(text_[i])];
  }

  // [^\r\n\p{L}\p{N}]?\p{L}+ with the letters from `i` on.
  size_t WordEnd(size_t i) const {
    while (ClassAt(i) == AsciiClass::kLetter) ++i;
    return ClassAt(i) == AsciiClass::kNotAscii ? kUndecided : i;
  }

  // ' ?[^\s\p{L}\p{N}]+[\r\n]*' with the symbols from `i` on.
  size_t SymbolsEnd(size_t i) const {
    while (ClassAt(i) == AsciiClass::kOther) ++i;
    if (ClassAt(i) == AsciiClass::kNotAscii) return kUndecided;
    while (ClassAt(i) == AsciiClass::kLineBreak) ++i;
    return i;
  }

  // (?i:'s|'t|'re|'ve|'m|'ll|'d): the length of the contraction, 0 when there is none.
  size_t ContractionEnd() const {
    if (text_[0] != '\'' || AtEnd(1)) return 0;
    const char first = LowerCase(1);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if (AtEnd(2)) return 0;
    const char second = LowerCase(2);
    const bool two_letters = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                             (first == 'l' && second == 'l');
    return two_letters ? 3 : 0;
  }

  char LowerCase(size_t i) const { return static_cast<char>(text_[i] | 0x20); }

  size_t AfterOther() const {
    if (const size_t end = ContractionEnd(); end > 0) return end;
    const AsciiClass next = ClassAt(1);
    if (next == AsciiClass::kNotAscii) return kUndecided;
    return next == AsciiClass::kLetter ? WordEnd(1) : SymbolsEnd(1);
  }

  size_t AfterSpace() const {
    const AsciiClass next = ClassAt(1);
    if (next == AsciiClass::kNotAscii) return kUndecided;
    if (next == AsciiClass::kLetter) return WordEnd(1);
    if (next == AsciiClass::kOther && text_[0] == ' ') return SymbolsEnd(1);
    return SpaceEnd();
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+
  size_t SpaceEnd() const {
    size_t end = 0;
    size_t after_line_break = 0;
    while (!AtEnd(end)) {
      const AsciiClass at = ClassAt(end);
      if (at == AsciiClass::kNotAscii) return kUndecided;
      if (at != AsciiClass::kSpace && at != AsciiClass::kLineBreak) break;
      ++end;
      if (at == AsciiClass::kLineBreak) after_line_break = end;
    }
    if (after_line_break > 0) return after_line_break;
    return AtEnd(end) || end == 1 ? end : end - 1;
  }

  std::string_view text_;
};

// The pattern backtracks little: neither limit is met but by a fault.
constexpr RegexLimits kLimits = {.steps = UINT32_MAX, .heap_kib = 256 << 10};

}  // namespace

absl::StatusOr<std::unique_ptr<const Pretokenizer>> Pretokenizer::Create() {
  ASSIGN_OR_RETURN(std::unique_ptr<const Pcre2Regex> regex,
                   Pcre2Regex::Compile(PatternForPcre2(), kLimits));
  return std::unique_ptr<const Pretokenizer>(new Pretokenizer(std::move(regex)));
}

Pretokenizer::Pretokenizer(std::unique_ptr<const Pcre2Regex> regex) : regex_(std::move(regex)) {}

Pretokenizer::Splitter::Splitter(const Pretokenizer& pretokenizer, std::string_view text)
    : pretokenizer_(pretokenizer), text_(text) {}

std::string_view Pretokenizer::Splitter::Next() {
  const size_t length = AsciiPiece(text_.substr(position_)).End();
  if (length == AsciiPiece::kUndecided) return NextByRegex();
  return TakeUntil(position_ + length);
}

std::string_view Pretokenizer::Splitter::NextByRegex() { return TakeUntil(PieceEndByRegex()); }

std::string_view Pretokenizer::Splitter::TakeUntil(size_t end) {
  const std::string_view piece = text_.substr(position_, end - position_);
  position_ = end;
  return piece;
}

size_t Pretokenizer::Splitter::PieceEndByRegex() {
  if (workspace_ == nullptr) workspace_ = std::make_unique<Pcre2Regex::Workspace>();
  const absl::StatusOr<size_t> end = pretokenizer_.regex_->MatchEnd(text_, position_, *workspace_);
  if (end.ok() && *end > position_) return *end;
  status_ = end.ok() ? absl::InternalError("the split pattern found an empty piece") : end.status();
  return text_.size();
}

}  // namespace tessera
