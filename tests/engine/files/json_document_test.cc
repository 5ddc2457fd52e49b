#include "engine/files/json_document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

TEST(JsonDocumentTest, KeepsEveryFieldInOrder) {
  const auto document = JsonDocument::Parse("\xEF\xBB\xBF {\"b\": 1, \"a\": [2.5], \"b\": null}\n");
  ASSERT_TRUE(document.ok()) << document.status();
  std::string keys;
  for (const auto field : simdjson::dom::object(document->root()))
    absl::StrAppend(&keys, std::string(field.key));
  EXPECT_EQ(keys, "bab");
}

TEST(JsonDocumentTest, OutlivesTheTextAndAMove) {
  JsonDocument moved = [] {
    const std::string text = R"({"a": "long enough to be outside of the object itself"})";
    return *JsonDocument::Parse(text);
  }();
  const JsonDocument document = std::move(moved);
  std::string_view text;
  ASSERT_EQ(document.root().at_key("a").get(text), simdjson::SUCCESS);
  EXPECT_EQ(text, "long enough to be outside of the object itself");
}

// Hugging Face writes such a model_max_length where it knows none.
TEST(JsonDocumentTest, IntegersBeyond64BitsAreDoubles) {
  const auto document = JsonDocument::Parse(
      R"({"a": 1000000000000000019884624838656, "s": "\"1000000000000000019884624838656",)"
      R"( "b": [-99999999999999999999, 1.00000000000000000000, 1e0000000000000000000001,)"
      R"( 12345678901234567890123.5, 7]})");
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_EQ(double(document->root()["a"]), 1e30);
  EXPECT_EQ(std::string_view(document->root()["s"]), "\"1000000000000000019884624838656");
  const simdjson::dom::array b = document->root()["b"];
  EXPECT_EQ(double(b.at(0)), -1e20);
  EXPECT_EQ(double(b.at(1)), 1);
  EXPECT_EQ(double(b.at(2)), 10);
  EXPECT_EQ(double(b.at(3)), 12345678901234567890123.5);
  EXPECT_EQ(int64_t(b.at(4)), 7);
}

TEST(JsonDocumentTest, RefusesWhatIsNoJson) {
  const std::string deep(JsonDocument::kMaxDepth + 1, '[');
  for (const std::string text :
       {"", " ", "{", "{}x", "{\"a\":1,}", "[01]", "[1e999]", "[00000000000000000000000]", "nul",
        "[\"\xff\"]", "[\"\xed\xa0\x80\"]", R"(["\ud800"])", R"(["\q"])", "[\"a\nb\"]",
        "[1000000000000000019884624838656", "\"1000000000000000019884624838656\\"}) {
    const auto document = JsonDocument::Parse(text);
    EXPECT_TRUE(absl::IsInvalidArgument(document.status())) << text;
    EXPECT_THAT(std::string(document.status().message()), HasSubstr("not valid JSON")) << text;
  }
  EXPECT_FALSE(JsonDocument::Parse(deep + std::string(deep.size(), ']')).ok());
  EXPECT_FALSE(JsonDocument::Parse(std::string(1 << 20, '[')).ok());
}

TEST(JsonDocumentTest, AnyBytesEndInADocumentOrAnError) {
  constexpr uint32_t kSeed = 20261129;
  constexpr std::string_view kBytes = "{}[]\":,\\u0e.E-+ 1234567890tfn";
  std::mt19937 random(kSeed);
  int good = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string text(random() % 40, '\0');
    for (char& byte : text) byte = kBytes[random() % kBytes.size()];
    if (round % 2 == 0)
      text = absl::StrCat("[", text.substr(0, 1), std::string(random() % 40, '9'), "]");
    good += JsonDocument::Parse(text).ok() ? 1 : 0;
  }
  EXPECT_GT(good, 1000) << "seed " << kSeed;
}

}  // namespace
}  // namespace tessera
