#include "engine/text/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/text/jinja/special_casing.h"
#include "engine/text/utf8.h"

namespace tessera::jinja {

Text::Text(std::string bytes, Provenance provenance) : bytes_(std::move(bytes)) {
  if (provenance == Provenance::kUntrusted && !bytes_.empty()) untrusted_ = {{0, bytes_.size()}};
}

Text::Text(std::string bytes, std::vector<Span> untrusted)
    : bytes_(std::move(bytes)), untrusted_(std::move(untrusted)) {}

Text Text::Slice(size_t begin, size_t end) const {
  TextBuilder builder;
  builder.AppendRange(*this, begin, end);
  return std::move(builder).Build();
}

void TextBuilder::MarkUntrusted(size_t begin, size_t end) {
  if (begin >= end) return;
  if (!untrusted_.empty() && untrusted_.back().end == begin) {
    untrusted_.back().end = end;
  } else {
    untrusted_.push_back({begin, end});
  }
}

void TextBuilder::Append(std::string_view bytes, Provenance provenance) {
  const size_t begin = bytes_.size();
  bytes_.append(bytes);
  if (provenance == Provenance::kUntrusted) MarkUntrusted(begin, bytes_.size());
}

void TextBuilder::AppendRange(const Text& text, size_t begin, size_t end) {
  end = std::min(end, text.size());
  if (begin >= end) return;
  const size_t base = bytes_.size();
  bytes_.append(text.bytes(), begin, end - begin);
  const auto& spans = text.untrusted();
  auto first = std::upper_bound(spans.begin(), spans.end(), begin,
                                [](size_t at, const Span& span) { return at < span.end; });
  for (auto it = first; it != spans.end() && it->begin < end; ++it) {
    MarkUntrusted(base + std::max(it->begin, begin) - begin, base + std::min(it->end, end) - begin);
  }
}

Text TextBuilder::Build() && { return Text(std::move(bytes_), std::move(untrusted_)); }

CodePoint DecodeCodePoint(std::string_view bytes, size_t offset) {
  const std::string_view rest = bytes.substr(offset);
  const Utf8Unit unit = NextUtf8Unit(rest);
  if (unit.kind != Utf8Unit::Kind::kCharacter) return {-1, 1};
  return {static_cast<int32_t>(DecodeUtf8Character(rest.substr(0, unit.length))), unit.length};
}

size_t CountCodePoints(std::string_view bytes) {
  size_t count = 0;
  for (size_t at = 0; at < bytes.size(); at += DecodeCodePoint(bytes, at).length) ++count;
  return count;
}

std::vector<size_t> CodePointOffsets(std::string_view bytes) {
  std::vector<size_t> offsets;
  offsets.reserve(bytes.size() + 1);
  for (size_t at = 0; at < bytes.size(); at += DecodeCodePoint(bytes, at).length) {
    offsets.push_back(at);
  }
  offsets.push_back(bytes.size());
  return offsets;
}

bool IsSpace(int32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsPrintable(int32_t c) {
  if (c < 0) return false;
  if (c < 0x80) return c >= 0x20 && c < 0x7F;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool IsLetter(int32_t c) {
  if (c < 0) return false;
  const utf8proc_category_t category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDigit(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_ND; }

bool IsNumeric(int32_t c) {
  if (c < 0) return false;
  const utf8proc_category_t category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsDigitLike(int32_t c) {
  if (IsDigit(c)) return true;
  // Superscripts, subscripts and encircled digits.
  return c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
         (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) ||
         (c >= 0x2474 && c <= 0x247C) || (c >= 0x2488 && c <= 0x2490);
}

bool IsAlphanumeric(int32_t c) { return IsLetter(c) || IsNumeric(c); }

bool IsCased(int32_t c) {
  return c >= 0 && (IsUpper(c) || IsLower(c) || utf8proc_category(c) == UTF8PROC_CATEGORY_LT);
}

bool IsUpper(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LU; }

bool IsLower(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LL; }

namespace {

bool ShouldStrip(std::string_view bytes, size_t at, size_t length, const std::string* characters) {
  if (characters == nullptr) return IsSpace(DecodeCodePoint(bytes, at).value);
  const std::string_view character = bytes.substr(at, length);
  for (size_t i = 0; i < characters->size();) {
    const size_t step = DecodeCodePoint(*characters, i).length;
    if (std::string_view(*characters).substr(i, step) == character) return true;
    i += step;
  }
  return false;
}

size_t PreviousOffset(std::string_view bytes, size_t begin, size_t at) {
  // A code point has at most four bytes; take the longest suffix that is exactly one.
  for (size_t length = std::min<size_t>(4, at - begin); length > 1; --length) {
    const CodePoint point = DecodeCodePoint(bytes.substr(0, at), at - length);
    if (point.value >= 0 && point.length == length) return at - length;
  }
  return at - 1;
}

// Calls map(code_point, offset, &mapped) for every character and keeps its provenance.
template <typename Map>
Text MapCodePoints(const Text& text, Map map) {
  TextBuilder builder;
  size_t span = 0;
  std::string mapped;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = DecodeCodePoint(text.bytes(), at);
    while (span < text.untrusted().size() && text.untrusted()[span].end <= at) ++span;
    const bool untrusted = span < text.untrusted().size() && text.untrusted()[span].begin <= at;
    mapped.clear();
    if (point.value < 0) {
      mapped = text.bytes().substr(at, 1);
    } else {
      map(point.value, at, &mapped);
    }
    builder.Append(mapped, untrusted ? Provenance::kUntrusted : Provenance::kTrusted);
    at += point.length;
  }
  return std::move(builder).Build();
}

void AppendCodePoint(int32_t c, std::string* out) { AppendUtf8(static_cast<char32_t>(c), out); }

void AppendUpper(int32_t c, std::string* out) {
  const SpecialCasing* special = FindSpecialCasing(c);
  if (special != nullptr) {
    out->append(special->upper);
  } else {
    AppendCodePoint(utf8proc_toupper(c), out);
  }
}

void AppendTitle(int32_t c, std::string* out) {
  const SpecialCasing* special = FindSpecialCasing(c);
  if (special != nullptr) {
    out->append(special->title);
  } else {
    AppendCodePoint(utf8proc_totitle(c), out);
  }
}

// The character before byte `at`, -1 at the start.
int32_t Previous(std::string_view bytes, size_t at) {
  if (at == 0) return -1;
  return DecodeCodePoint(bytes, PreviousOffset(bytes, 0, at)).value;
}

void AppendLower(std::string_view bytes, int32_t c, size_t at, std::string* out) {
  constexpr int32_t kSigma = 0x3A3;
  if (c == 0x130) {  // I with a dot keeps the dot
    out->append("i\u0307");
    return;
  }
  if (c == kSigma && IsCased(Previous(bytes, at))) {
    const size_t next = at + 2;
    const bool ends = next >= bytes.size() || !IsCased(DecodeCodePoint(bytes, next).value);
    AppendCodePoint(ends ? 0x3C2 : 0x3C3, out);  // the sigma at the end of a word
    return;
  }
  AppendCodePoint(utf8proc_tolower(c), out);
}

void AppendFolded(int32_t c, std::string* out) {
  utf8proc_int32_t folded[8];
  int boundary = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(c, folded, std::size(folded), UTF8PROC_CASEFOLD, &boundary);
  for (utf8proc_ssize_t i = 0; i < count; ++i) AppendCodePoint(folded[i], out);
}

}  // namespace

Span StripRange(std::string_view bytes, const std::string* characters, StripSides sides) {
  size_t begin = 0;
  size_t end = bytes.size();
  while (sides.left && begin < end) {
    const size_t length = DecodeCodePoint(bytes, begin).length;
    if (!ShouldStrip(bytes, begin, length, characters)) break;
    begin += length;
  }
  while (sides.right && end > begin) {
    const size_t previous = PreviousOffset(bytes, begin, end);
    if (!ShouldStrip(bytes, previous, end - previous, characters)) break;
    end = previous;
  }
  return {begin, end};
}

Text MapUpper(const Text& text) {
  return MapCodePoints(text,
                       [](int32_t c, size_t, std::string* out) { return AppendUpper(c, out); });
}

Text MapLower(const Text& text) {
  return MapCodePoints(text, [&text](int32_t c, size_t at, std::string* out) {
    AppendLower(text.bytes(), c, at, out);
  });
}

Text MapFold(const Text& text) {
  return MapCodePoints(text,
                       [](int32_t c, size_t, std::string* out) { return AppendFolded(c, out); });
}

Text MapSwapCase(const Text& text) {
  return MapCodePoints(text, [&text](int32_t c, size_t at, std::string* out) {
    if (IsUpper(c)) {
      AppendLower(text.bytes(), c, at, out);
    } else {
      AppendUpper(c, out);
    }
  });
}

Text MapTitle(const Text& text) {
  bool in_word = false;
  return MapCodePoints(text, [&text, &in_word](int32_t c, size_t at, std::string* out) {
    if (in_word) {
      AppendLower(text.bytes(), c, at, out);
    } else {
      AppendTitle(c, out);
    }
    in_word = IsCased(c);
  });
}

Text MapCapitalize(const Text& text) {
  return MapCodePoints(text, [&text](int32_t c, size_t at, std::string* out) {
    if (at == 0) {
      AppendTitle(c, out);
    } else {
      AppendLower(text.bytes(), c, at, out);
    }
  });
}

}  // namespace tessera::jinja
