#include "engine/text/pretokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/text/utf8.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;

const Pretokenizer& Instance() {
  static const auto* const instance = Pretokenizer::Create()->release();
  return *instance;
}

std::vector<std::string> Split(std::string_view text) {
  std::vector<std::string> pieces;
  Pretokenizer::Splitter splitter(Instance(), text);
  while (!splitter.done()) pieces.emplace_back(splitter.Next());
  return pieces;
}

std::vector<std::string> SplitByRegex(std::string_view text) {
  std::vector<std::string> pieces;
  Pretokenizer::Splitter splitter(Instance(), text);
  while (!splitter.done()) pieces.emplace_back(splitter.NextByRegex());
  return pieces;
}

std::string Text(char32_t character) {
  std::string text;
  AppendUtf8(character, &text);
  return text;
}

TEST(Pretokenizer, KnownCases) {
  EXPECT_THAT(Split(""), ElementsAre());
  EXPECT_THAT(Split("Hello, world!"), ElementsAre("Hello", ",", " world", "!"));
  EXPECT_THAT(Split("I'll we'Re"), ElementsAre("I", "'ll", " we", "'Re"));
  EXPECT_THAT(Split("'\u017F"), ElementsAre("'\u017F")) << "long s folds to s";
  EXPECT_THAT(Split("'twas"), ElementsAre("'t", "was"));
  EXPECT_THAT(Split("1234"), ElementsAre("1", "2", "3", "4"));
  EXPECT_THAT(Split("a   b"), ElementsAre("a", "  ", " b"));
  EXPECT_THAT(Split("a \n\n  b"), ElementsAre("a", " \n\n", " ", " b"));
  EXPECT_THAT(Split("x!!\n\ny"), ElementsAre("x", "!!\n\n", "y"));
  EXPECT_THAT(Split("\tif"), ElementsAre("\tif"));
  EXPECT_THAT(Split("end  "), ElementsAre("end", "  "));
  EXPECT_THAT(Split("\u4F60\u597D\u3002"), ElementsAre("\u4F60\u597D", "\u3002"));
  EXPECT_THAT(Split("caf\u00E9s"), ElementsAre("caf\u00E9s"));
}

// The reference counts exactly these code points as \s; PCRE2 alone would add U+180E.
bool IsReferenceSpace(char32_t c) {
  if ((c >= 0x09 && c <= 0x0D) || (c >= 0x2000 && c <= 0x200A)) return true;
  for (const char32_t space : {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}) {
    if (c == space) return true;
  }
  return false;
}

TEST(Pretokenizer, SpacesAreThoseOfTheReference) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if ((c >= 0xD800 && c < 0xE000) || c == '\r' || c == '\n') continue;
    // A line break takes the spaces before it into its piece, and no other character.
    const std::string space_and_break = Text(c) + "\n";
    const auto pieces = Split("!" + space_and_break);
    ASSERT_EQ(pieces.size() == 2 && pieces[1] == space_and_break, IsReferenceSpace(c))
        << std::hex << uint32_t{c};
  }
}

TEST(PretokenizerProperty, ShortCutEqualsTheRegexOnAllShortTexts) {
  const std::vector<std::string> alphabet = {
      " ", "\n", "\r", "\t",   "a",      "S",      "t",      "l",      "R",     "e",
      "'", "1",  ".",  "\x1F", "\u017F", "\u00E9", "\u3000", "\u2026", "\u0661"};
  const size_t base = alphabet.size();
  for (size_t number = 0; number < base * base * base * base; ++number) {
    std::string text;
    for (size_t digit = 0, rest = number; digit < 4; ++digit, rest /= base) {
      text += alphabet[rest % base];
    }
    ASSERT_EQ(Split(text), SplitByRegex(text)) << testing::PrintToString(text);
  }
}

TEST(PretokenizerProperty, ShortCutEqualsTheRegexOnRandomTexts) {
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::string text;
    for (size_t i = 0, length = random() % 40; i < length; ++i) {
      const uint64_t kind = random() % 16;
      char32_t c = static_cast<char32_t>(random() % 0x80);
      if (kind < 6) c = static_cast<char32_t>(" \n\r\t'"[random() % 5]);
      if (kind == 15) c = static_cast<char32_t>(random() % 0x3000);
      AppendUtf8(c, &text);
    }
    const auto pieces = Split(text);
    ASSERT_EQ(pieces, SplitByRegex(text)) << "seed " << seed;
    std::string joined;
    for (const std::string& piece : pieces) {
      ASSERT_FALSE(piece.empty());
      joined += piece;
    }
    ASSERT_EQ(joined, text) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tessera
