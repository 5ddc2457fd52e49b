#include "engine/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "engine/text/nfc.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/reference_tokenizer.h"
#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

std::vector<int32_t> EncodeWithAdded(const Tokenizer& tokenizer, std::string_view text) {
  return *tokenizer.Encode(text, {.parse_added_tokens = true});
}

std::vector<int32_t> EncodePlain(const Tokenizer& tokenizer, std::string_view text) {
  return *tokenizer.Encode(text, {.parse_added_tokens = false});
}

// What decoding the encoded text must give: NFC of every stretch between added tokens.
std::string NormalizedBetween(std::string_view text, const std::vector<std::string>& added) {
  std::string result;
  std::string storage;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    std::string_view longest;
    for (const std::string& token : added) {
      if (text.substr(i, token.size()) == token && token.size() > longest.size()) longest = token;
    }
    if (longest.empty()) {
      ++i;
      continue;
    }
    result.append(NormalizeNfc(text.substr(start, i - start), &storage)).append(longest);
    i += longest.size();
    start = i;
  }
  result.append(NormalizeNfc(text.substr(start), &storage));
  return result;
}

std::vector<std::string> AddedTexts(const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (int32_t id = 151643; id < tokenizer.vocab_size(); ++id) {
    texts.emplace_back(tokenizer.TokenBytes(id));
  }
  return texts;
}

TEST(TokenizerGoldens, EncodeGivesTheReferenceIds) {
  const auto tokenizer = ReferenceTokenizer();
  const auto goldens = ReadTokenizerGoldens();
  ASSERT_EQ(goldens.size(), 489u);
  for (const TokenizerGolden& golden : goldens) {
    EXPECT_EQ(EncodeWithAdded(*tokenizer, golden.text), golden.ids) << golden.text;
  }
}

TEST(TokenizerGoldens, DecodeGivesTheNormalizedText) {
  const auto tokenizer = ReferenceTokenizer();
  const auto added = AddedTexts(*tokenizer);
  ASSERT_EQ(added.size(), 26u);
  for (const TokenizerGolden& golden : ReadTokenizerGoldens()) {
    EXPECT_EQ(tokenizer->Decode(golden.ids, false), NormalizedBetween(golden.text, added));
  }
}

TEST(TokenizerGoldens, BundledModelPromptsGiveTheirIds) {
  auto tokenizer = Tokenizer::Load(TESSERA_NANO_MODEL);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  std::istringstream lines(ReadTestFile(TESSERA_NANO_MODEL "/golden.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto golden = nlohmann::json::parse(line);
    const std::string prompt = golden["prompt"];
    const std::vector<int32_t> ids = golden["prompt_ids"];
    const std::vector<int32_t> greedy = golden["greedy"];
    EXPECT_EQ(EncodeWithAdded(**tokenizer, prompt), ids) << prompt;
    EXPECT_EQ((*tokenizer)->Decode(greedy, false), golden["text"].get<std::string>());
  }
  EXPECT_EQ(count, 48);
}

TEST(Tokenizer, KnowsTheRealVocabulary) {
  const auto tokenizer = ReferenceTokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 151669);
  EXPECT_EQ(tokenizer->TokenId("<|endoftext|>"), 151643);
  EXPECT_EQ(tokenizer->TokenId("<|im_end|>"), 151645);
  EXPECT_EQ(tokenizer->TokenId("</think>"), 151668);
  EXPECT_EQ(tokenizer->TokenId("user"), std::nullopt) << "an ordinary token is not an added one";
  for (int32_t id = 151643; id <= 151656; ++id) EXPECT_TRUE(tokenizer->IsSpecial(id)) << id;
  for (int32_t id = 151657; id <= 151668; ++id) EXPECT_FALSE(tokenizer->IsSpecial(id)) << id;
  EXPECT_FALSE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_EQ(tokenizer->TokenBytes(271), "\n\n");
  EXPECT_EQ(tokenizer->TokenBytes(56940), std::string(128, ' '));
  EXPECT_EQ(tokenizer->TokenBytes(255), "\xAD");
  EXPECT_EQ(tokenizer->TokenBytes(188), std::string_view("\0", 1));
  EXPECT_EQ(tokenizer->TokenBytes(151667), "<think>");
}

TEST(Tokenizer, PaddingIdsHaveNoBytes) {
  const auto tokenizer = ReferenceTokenizer();
  for (const int32_t id : {-1, INT32_MIN, 151669, 151935, INT32_MAX}) {
    EXPECT_EQ(tokenizer->TokenBytes(id), "") << id;
  }
  const std::vector<int32_t> ids = {9707, 151900, -5, 1879};
  EXPECT_EQ(tokenizer->Decode(ids, false), "Hello world");
}

TEST(Tokenizer, SkipsSpecialTokensOnRequest) {
  const auto tokenizer = ReferenceTokenizer();
  const std::vector<int32_t> ids = {151644, 9707, 151667, 151668, 151645};
  EXPECT_EQ(tokenizer->Decode(ids, false), "<|im_start|>Hello<think></think><|im_end|>");
  EXPECT_EQ(tokenizer->Decode(ids, true), "Hello<think></think>");
}

TEST(Tokenizer, InvalidUtf8BecomesReplacementCharacters) {
  const auto tokenizer = ReferenceTokenizer();
  const auto expect_same = [&](std::string_view bytes, std::string_view repaired) {
    EXPECT_EQ(EncodeWithAdded(*tokenizer, bytes), EncodeWithAdded(*tokenizer, repaired));
  };
  expect_same("\xFF", "\uFFFD");
  expect_same("a\xE4\xBD z", "a\uFFFD z");
  expect_same("\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD");
  expect_same("\xF0\x9F\x98", "\uFFFD");
  expect_same("x\xC3<|im_end|>", "x\uFFFD<|im_end|>");
}

// Text in which nothing but characters of U+0000 to U+10FFFF occurs, favouring what the pattern and
// NFC treat specially.
std::string RandomText(std::mt19937_64& random, size_t characters) {
  static constexpr char32_t kInteresting[] = {
      ' ',    ' ',    '\n',    '\r',   '\t',   'a',    'e',    'S',    't',    'l',    '\'',
      '1',    '.',    '<',     '|',    '>',    0x0301, 0x0316, 0x00E9, 0x017F, 0x1EBF, 0x1100,
      0x1161, 0x11A8, 0xAC00,  0x0085, 0x00A0, 0x180E, 0x200B, 0x2028, 0x3000, 0xFEFF, 0x4E2D,
      0x0660, 0x2460, 0x1F600, 0x200D, 0xFE0F, 0x0915, 0x093C, 0x094D, 0x0E33, 0x07FD, 0x212A};
  std::string text;
  for (size_t i = 0; i < characters; ++i) {
    char32_t c = kInteresting[random() % std::size(kInteresting)];
    if (random() % 8 == 0) c = static_cast<char32_t>(random() % 0x110000);
    if (c >= 0xD800 && c < 0xE000) c = 'x';
    AppendUtf8(c, &text);
  }
  return text;
}

TEST(TokenizerProperty, DecodeOfEncodeIsTheNormalizedText) {
  const auto tokenizer = ReferenceTokenizer();
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    std::mt19937_64 random(seed);
    const std::string text = RandomText(random, 1 + random() % 40);
    std::string storage;
    ASSERT_EQ(tokenizer->Decode(EncodePlain(*tokenizer, text), true), NormalizeNfc(text, &storage))
        << "seed " << seed;
  }
}

TEST(TokenizerSegments, UserTextNeverBecomesAControlToken) {
  const auto tokenizer = ReferenceTokenizer();
  for (const std::string& added : AddedTexts(*tokenizer)) {
    const std::string attack = "hi" + added + "\n" + added;
    for (const int32_t id : EncodePlain(*tokenizer, attack)) EXPECT_LT(id, 151643) << added;
    const TextSegment prompt[] = {
        {"<|im_start|>user\n", true}, {attack, false}, {"<|im_end|>\n", true}};
    const auto ids = *tokenizer->EncodeSegments(prompt);
    EXPECT_EQ(std::count_if(ids.begin(), ids.end(), [](int32_t id) { return id >= 151643; }), 2);
    EXPECT_EQ(tokenizer->Decode(ids, false), "<|im_start|>user\n" + attack + "<|im_end|>\n");
  }
}

TEST(TokenizerSegments, ControlTokensDoNotFormAcrossSegmentBorders) {
  const auto tokenizer = ReferenceTokenizer();
  const TextSegment documents[][2] = {{{"<|im_", true}, {"end|>", false}},
                                      {{"<|im_", false}, {"end|>", true}},
                                      {{"<|im_", true}, {"end|>", true}},
                                      {{"<|im_end|", false}, {">", true}}};
  const auto plain = EncodePlain(*tokenizer, "<|im_end|>");
  for (const auto& document : documents) EXPECT_EQ(*tokenizer->EncodeSegments(document), plain);
}

TEST(TokenizerSegments, BordersDoNotChangeTheIds) {
  const auto tokenizer = ReferenceTokenizer();
  // The accent composes with a letter and the word continues over a border.
  const TextSegment document[] = {{"<|im_start|>us", true}, {"er e", false},     {"", false},
                                  {"\u0301t", true},        {"\xE4\xBD", false}, {"\xA0", true},
                                  {"\n\n", false},          {"<|im_end|>", true}};
  EXPECT_EQ(*tokenizer->EncodeSegments(document),
            EncodeWithAdded(*tokenizer, "<|im_start|>user e\u0301t\u4F60\n\n<|im_end|>"));
  EXPECT_TRUE(tokenizer->EncodeSegments({})->empty());
}

TEST(TokenizerSegments, RandomPromptsEncodeLikeTheRenderedText) {
  const auto tokenizer = ReferenceTokenizer();
  const auto added = AddedTexts(*tokenizer);
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<std::string> texts;
    std::string rendered;
    for (size_t i = 0, count = 1 + random() % 6; i < count; ++i) {
      std::string text = RandomText(random, random() % 12);
      if (i % 2 == 0) text.insert(0, added[random() % added.size()]);
      if (i % 2 == 0 && random() % 2 == 0) text += added[random() % added.size()];
      rendered += text;
      texts.push_back(std::move(text));
    }
    std::vector<TextSegment> segments;
    for (size_t i = 0; i < texts.size(); ++i) segments.push_back({texts[i], i % 2 == 0});
    ASSERT_EQ(*tokenizer->EncodeSegments(segments), EncodeWithAdded(*tokenizer, rendered))
        << "seed " << seed;
  }
}

TEST(Tokenizer, ThreadsShareOneInstance) {
  const auto tokenizer = ReferenceTokenizer();
  const auto goldens = ReadTokenizerGoldens();
  std::vector<std::thread> threads;
  std::array<int, 4> wrong{};
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (const TokenizerGolden& golden : goldens) {
        if (EncodeWithAdded(*tokenizer, golden.text) != golden.ids) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

// Inputs of 1 MB that make careless implementations quadratic. The limit is far above what they
// take (0.1 to 0.5 s) and far below what a quadratic loop would take (minutes).
TEST(Tokenizer, HostileMegabyteInputsStayFast) {
  const auto tokenizer = ReferenceTokenizer();
  constexpr size_t kSize = 1'000'000;
  const auto repeat = [](std::string_view unit) {
    std::string text;
    while (text.size() < kSize) text.append(unit);
    return text;
  };
  std::mt19937_64 random(1);
  std::string letters;
  for (size_t i = 0; i < kSize; ++i) letters.push_back(static_cast<char>('a' + random() % 26));
  const std::string inputs[] = {repeat("a"),
                                letters,
                                repeat(" "),
                                repeat(" ") + "\u4E2D",
                                repeat("\n"),
                                repeat(" \u3000"),
                                repeat("!"),
                                repeat("\u0301"),
                                repeat("\u0301\u0316"),
                                "a" + repeat("\u0316\u0301"),
                                repeat("\u4E2D"),
                                repeat("\U0001F600"),
                                repeat("\xFF"),
                                repeat("<|im_"),
                                repeat("<"),
                                repeat("<|im_end|>"),
                                repeat("\u1100\u1161\u11A8"),
                                repeat("a\u00AD")};
  double slowest = 0;
  for (const std::string& input : inputs) {
    const double start = ThreadCpuSeconds();
    const auto ids = EncodeWithAdded(*tokenizer, input);
    const double elapsed = ThreadCpuSeconds() - start;
    EXPECT_LT(elapsed, 10 * kSlowdown) << input.substr(0, 20);
    EXPECT_FALSE(ids.empty());
    slowest = std::max(slowest, elapsed);
  }
  RecordProperty("slowest_ms", static_cast<int>(slowest * 1000));
}

}  // namespace
}  // namespace tessera
