#include "engine/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/text/utf8.h"
#include "engine/text/utf8_stream.h"
#include "tests/engine/text/reference_tokenizer.h"

namespace tessera {
namespace {

// Pushes `ids` one by one; every push must append whole characters.
std::string Streamed(const std::vector<int32_t>& ids, bool skip_special) {
  IncrementalDetokenizer detokenizer(ReferenceTokenizer(), {.skip_special = skip_special});
  std::string text;
  for (const int32_t id : ids) {
    std::string delta;
    detokenizer.Push(id, &delta);
    EXPECT_TRUE(IsValidUtf8(delta));
    EXPECT_LE(detokenizer.pending_bytes(), 3u);
    text += delta;
  }
  detokenizer.Finish(&text);
  EXPECT_EQ(detokenizer.pending_bytes(), 0u);
  return text;
}

// The tokens of the single bytes of `bytes`.
std::vector<int32_t> ByteTokens(std::string_view bytes) {
  static const auto* const id_of = [] {
    auto* table = new std::vector<int32_t>(256);
    for (int32_t id = 0; id < 256; ++id) {
      (*table)[static_cast<uint8_t>(ReferenceTokenizer()->TokenBytes(id)[0])] = id;
    }
    return table;
  }();
  std::vector<int32_t> ids;
  for (const char byte : bytes) ids.push_back((*id_of)[static_cast<uint8_t>(byte)]);
  return ids;
}

TEST(IncrementalDetokenizer, HoldsBackUnfinishedCharacters) {
  IncrementalDetokenizer detokenizer(ReferenceTokenizer(), {});
  const auto ids = ByteTokens("\U0001F600!");
  std::string text;
  for (size_t i = 0; i < 3; ++i) {
    detokenizer.Push(ids[i], &text);
    EXPECT_EQ(text, "");
    EXPECT_EQ(detokenizer.pending_bytes(), i + 1);
  }
  detokenizer.Push(ids[3], &text);
  EXPECT_EQ(text, "\U0001F600");
  detokenizer.Push(ids[4], &text);
  EXPECT_EQ(text, "\U0001F600!");
}

TEST(IncrementalDetokenizer, HopelessBytesComeOutAtOnce) {
  IncrementalDetokenizer detokenizer(ReferenceTokenizer(), {});
  std::string text;
  for (const int32_t id : ByteTokens("\xFF\xE4\xBDz")) detokenizer.Push(id, &text);
  EXPECT_EQ(text, "\uFFFD\uFFFDz");
  EXPECT_EQ(detokenizer.pending_bytes(), 0u);
}

TEST(IncrementalDetokenizer, FinishFlushesTheTailOnce) {
  IncrementalDetokenizer detokenizer(ReferenceTokenizer(), {});
  std::string text;
  for (const int32_t id : ByteTokens("a\xF0\x9F\x98")) detokenizer.Push(id, &text);
  EXPECT_EQ(text, "a");
  detokenizer.Finish(&text);
  EXPECT_EQ(text, "a\uFFFD");
  detokenizer.Finish(&text);
  EXPECT_EQ(text, "a\uFFFD");
}

TEST(IncrementalDetokenizer, SkipsSpecialAndPaddingTokens) {
  const std::vector<int32_t> ids = {151644, 9707, 151667, 151900, -3, 151645};
  EXPECT_EQ(Streamed(ids, true), "Hello<think>");
  EXPECT_EQ(Streamed(ids, false), "<|im_start|>Hello<think><|im_end|>");
}

TEST(IncrementalDetokenizer, CopiesContinueOnTheirOwn) {
  const auto ids = ByteTokens("\u4F60");
  IncrementalDetokenizer original(ReferenceTokenizer(), {});
  std::string text;
  original.Push(ids[0], &text);
  original.Push(ids[1], &text);
  IncrementalDetokenizer fork = original;
  std::string forked;
  fork.Push(ids[2], &forked);
  original.Finish(&text);
  EXPECT_EQ(forked, "\u4F60");
  EXPECT_EQ(text, "\uFFFD");
}

// Cuts emoji and CJK text into tokens at every pair of byte positions: what stands before, between
// and after the cuts is encoded apart (as byte tokens where it is not whole characters).
TEST(IncrementalDetokenizer, EveryByteSplitOfWideCharactersGivesTheText) {
  const auto tokenizer = ReferenceTokenizer();
  const auto tokens = [&](std::string_view part) {
    return IsValidUtf8(part) ? *tokenizer->Encode(part, {}) : ByteTokens(part);
  };
  for (const std::string_view text :
       {"\U0001F469\u200D\U0001F469\u200D\U0001F467 ok", "\u4ECA\u5929\u4E0B\u96E8\u3002",
        "\uD55C\uAD6D\uC5B4", "\u3053\u3093\u306B\u3061\u306F\U00020BB7",
        "na\u00EFve \U0001F1EB\U0001F1F7\u2764\uFE0F"}) {
    for (size_t i = 0; i <= text.size(); ++i) {
      for (size_t j = i; j <= text.size(); ++j) {
        std::vector<int32_t> ids;
        for (const auto part : {text.substr(0, i), text.substr(i, j - i), text.substr(j)}) {
          const auto part_ids = tokens(part);
          ids.insert(ids.end(), part_ids.begin(), part_ids.end());
        }
        ASSERT_EQ(Streamed(ids, true), text) << i << " " << j;
      }
    }
  }
}

TEST(IncrementalDetokenizerProperty, RandomStreamsEqualOfflineDecode) {
  const auto tokenizer = ReferenceTokenizer();
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<int32_t> ids;
    for (size_t i = 0, length = random() % 60; i < length; ++i) {
      const uint64_t kind = random() % 8;
      uint64_t id = random() % 152000;
      if (kind < 3) id = 94 + random() % 162;  // bytes above 0x7F, alone
      if (kind == 3) id = 151643 + random() % 26;
      ids.push_back(static_cast<int32_t>(id));
    }
    const bool skip_special = random() % 2 == 0;
    const std::string offline = tokenizer->Decode(ids, skip_special);
    ASSERT_TRUE(IsValidUtf8(offline)) << "seed " << seed;
    ASSERT_EQ(Streamed(ids, skip_special), offline) << "seed " << seed;
    std::string bytes;
    for (const int32_t id : ids) {
      if (!skip_special || !tokenizer->IsSpecial(id)) bytes += tokenizer->TokenBytes(id);
    }
    std::string repaired;
    AppendRepairedUtf8(bytes, &repaired);
    ASSERT_EQ(offline, repaired) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tessera
