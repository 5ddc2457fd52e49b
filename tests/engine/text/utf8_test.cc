#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "engine/text/utf8_stream.h"

namespace tessera {
namespace {

std::string Repaired(std::string_view bytes) {
  std::string text;
  AppendRepairedUtf8(bytes, &text);
  return text;
}

TEST(Utf8, EveryScalarValueSurvives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    ASSERT_EQ(DecodeUtf8Character(text), c);
    ASSERT_TRUE(IsValidUtf8(text));
    ASSERT_EQ(NextUtf8Unit(text).length, text.size());
    ASSERT_EQ(Repaired(text), text);
  }
}

TEST(Utf8, ReplacesMaximalSubparts) {
  struct Case {
    std::string_view bytes;
    std::string_view repaired;
  };
  // The first three are the examples of Unicode 15.0, tables 3-8, 3-9 and 3-11.
  const Case cases[] = {{"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41",
                         "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\u0041"},
                        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41",
                         "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\u0041"},
                        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\u0041"},
                        {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
                        {"\xF0\x9F\x98", "\uFFFD"},
                        {"\xF0\x9F\x98z", "\uFFFDz"},
                        {"\x80\xBF", "\uFFFD\uFFFD"},
                        {"\xC3", "\uFFFD"},
                        {"\xC3\xC3\xA9", "\uFFFD\u00E9"},
                        {"\xFE\xFF", "\uFFFD\uFFFD"}};
  for (const Case& c : cases) {
    EXPECT_EQ(Repaired(c.bytes), c.repaired);
    EXPECT_FALSE(IsValidUtf8(c.bytes));
  }
}

TEST(Utf8, AsciiPrefixEndsAtTheFirstHighByte) {
  for (size_t length = 0; length < 40; ++length) {
    const std::string ascii(length, 'x');
    EXPECT_EQ(AsciiPrefixLength(ascii), length);
    EXPECT_EQ(AsciiPrefixLength(ascii + "\xC3\xA9xxxxxxxxxxxx"), length);
  }
}

TEST(Utf8Stream, EveryThreeWaySplitGivesTheWholeText) {
  const std::string text =
      "a\u00E9\u4F60\u597D\U0001F469\u200D\U0001F469\u200D\U0001F467\U0001F1EB\U0001F1F7 "
      "\xE4\xBDz\xF0\x9F\x98\xFF\xED\xA0\x80\u3042\uFFFD\U0010FFFF";
  const std::string whole = Repaired(text);
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t j = i; j <= text.size(); ++j) {
      Utf8Stream stream;
      std::string out;
      for (const std::string_view part :
           {std::string_view(text).substr(0, i), std::string_view(text).substr(i, j - i),
            std::string_view(text).substr(j)}) {
        stream.Push(part, &out);
        ASSERT_TRUE(IsValidUtf8(out));
        ASSERT_EQ(whole.substr(0, out.size()), out) << "text once given is final";
        ASSERT_LE(stream.pending_bytes(), 3u);
      }
      stream.Finish(&out);
      ASSERT_EQ(out, whole) << i << " " << j;
    }
  }
}

TEST(Utf8Stream, RandomBytesDoNotDependOnTheSplit) {
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    std::mt19937_64 random(seed);
    std::string bytes;
    for (size_t i = 0, length = random() % 24; i < length; ++i) {
      static constexpr uint8_t kLikely[] = {0x41, 0x80, 0xBF, 0x9F, 0xA0, 0xC2,
                                            0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0x90};
      bytes.push_back(
          static_cast<char>(random() % 4 == 0 ? random() % 256 : kLikely[random() % 12]));
    }
    Utf8Stream stream;
    std::string out;
    for (size_t i = 0; i < bytes.size();) {
      const size_t length = 1 + random() % 4;
      stream.Push(std::string_view(bytes).substr(i, length), &out);
      ASSERT_TRUE(IsValidUtf8(out)) << "seed " << seed;
      i += length;
    }
    stream.Finish(&out);
    ASSERT_EQ(out, Repaired(bytes)) << "seed " << seed;
    ASSERT_TRUE(IsValidUtf8(out)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tessera
