#include "engine/text/nfc.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>
#include <random>
#include <string>

#include "engine/text/utf8.h"

namespace tessera {
namespace {

std::string Nfc(std::string_view text) {
  std::string storage;
  return std::string(NormalizeNfc(text, &storage));
}

// NFC by the library, with the data of its own Unicode version.
std::string LibraryNfc(std::string_view text) {
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &result,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string normalized(reinterpret_cast<const char*>(result), static_cast<size_t>(length));
  std::free(result);
  return normalized;
}

std::string Text(std::initializer_list<char32_t> characters) {
  std::string text;
  for (const char32_t c : characters) AppendUtf8(c, &text);
  return text;
}

// Whether Unicode 9.0 has no combining class for `c` although later versions do: then it keeps an
// accent behind it from composing with a letter before it.
bool IsLaterMark(char32_t c) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class != 0 &&
         Nfc(Text({'e', c, 0x0301})) == Text({'e', c, 0x0301}) &&
         Nfc(Text({'e', c, 0x0323})) == Text({'e', c, 0x0323});
}

TEST(Nfc, KnownCases) {
  EXPECT_EQ(Nfc(""), "");
  EXPECT_EQ(Nfc("plain ASCII\r\n\t"), "plain ASCII\r\n\t");
  EXPECT_EQ(Nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(Nfc("a\u0323\u0302"), "\u1EAD");
  EXPECT_EQ(Nfc("a\u0302\u0323"), "\u1EAD") << "marks are put into canonical order";
  EXPECT_EQ(Nfc("\u00E9\u0301"), "\u00E9\u0301");
  EXPECT_EQ(Nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(Nfc("\uD558\u11AB"), "\uD55C");
  EXPECT_EQ(Nfc("\u212B"), "\u00C5") << "singleton";
  EXPECT_EQ(Nfc("\u0958"), "\u0915\u093C") << "excluded from composition";
  EXPECT_EQ(Nfc("\uFB01"), "\uFB01") << "compatibility characters stay";
  EXPECT_EQ(Nfc("\u0301e"), "\u0301e");
}

TEST(Nfc, NormalizedTextIsNotCopied) {
  std::string storage;
  for (const std::string_view text : {"abc", "\u4F60\u597D", "\u00E9t\u00E9 \u043F\u0440"}) {
    EXPECT_EQ(NormalizeNfc(text, &storage).data(), text.data());
  }
}

// The code points for which the reference tokenizer was observed to use combining class 0.
TEST(Nfc, MarksAssignedAfterUnicode9AreStarters) {
  constexpr char32_t kObserved[] = {
      0x07FD,  0x0899,  0x089A,  0x089B,  0x08CF,  0x08D0,  0x08D1,  0x08D2,  0x08D3,  0x0C3C,
      0x0D3B,  0x0D3C,  0x0EBA,  0x1715,  0x1ABF,  0x1AC0,  0x1AC3,  0x1AC4,  0x1ACA,  0x1DF6,
      0x1DF7,  0x1DF8,  0x1DF9,  0x1DFA,  0xA82C,  0x10F46, 0x10F47, 0x10F4B, 0x10F85, 0x11070,
      0x1133B, 0x11839, 0x1183A, 0x1193D, 0x1193E, 0x11943, 0x119E0, 0x11A34, 0x11A47, 0x11A99,
      0x11D42, 0x11D44, 0x11D45, 0x11D97, 0x16FF0, 0x16FF1};
  for (const char32_t c : kObserved) EXPECT_TRUE(IsLaterMark(c)) << std::hex << uint32_t{c};
  EXPECT_EQ(Nfc(Text({0x11935, 0x11930})), Text({0x11935, 0x11930}));
  EXPECT_FALSE(IsLaterMark(0x0316));
  EXPECT_EQ(Nfc(Text({0x07FD, 0x0301, 0x0323})), Text({0x07FD, 0x0323, 0x0301}))
      << "marks after it are still put into order";
}

TEST(Nfc, EveryOtherCodePointIsAsInTheLibrary) {
  int later = 0;
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    if (IsLaterMark(c)) {
      ++later;
      continue;
    }
    if (c == 0x11930 || c == 0x11938) continue;
    for (const std::string& text : {Text({c}), Text({'e', c, 0x0301, 0x0323}),
                                    Text({0x1100, c, 0x11A8}), Text({0x0915, 0x0301, c})}) {
      ASSERT_EQ(Nfc(text), LibraryNfc(text)) << std::hex << uint32_t{c};
    }
  }
  EXPECT_GE(later, 46);
  EXPECT_LE(later, 200) << "only marks of Unicode 10 and later";
}

TEST(NfcProperty, RandomTextIsAsInTheLibrary) {
  constexpr char32_t kCharacters[] = {'a',    'e',    ' ',    0x0301, 0x0316, 0x0323, 0x0302,
                                      0x0345, 0x0338, 0x00E9, 0x1EAD, 0x0958, 0x0915, 0x093C,
                                      0x1100, 0x1161, 0x11A8, 0xAC00, 0xD55C, 0x212B, 0x0344,
                                      0x05D0, 0x05B8, 0x4E2D, 0x0DD9, 0x0DCF, 0x0DCA, 0x3099};
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::string text;
    for (size_t i = 0, length = random() % 16; i < length; ++i) {
      AppendUtf8(kCharacters[random() % std::size(kCharacters)], &text);
    }
    const std::string normalized = Nfc(text);
    ASSERT_EQ(normalized, LibraryNfc(text)) << "seed " << seed;
    ASSERT_EQ(Nfc(normalized), normalized) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tessera
