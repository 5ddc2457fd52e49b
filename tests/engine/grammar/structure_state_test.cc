#include "engine/grammar/structure_state.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/bit_mask.h"
#include "tests/engine/grammar/byte_tokens.h"

namespace tessera {
namespace {

using Verdict = StructureState::Verdict;

const TestVocabulary& Vocabulary() {
  static const TestVocabulary vocabulary{
      .words = {"{\"", "\":", "\": ", ", \"", "true", "12", "\"}", "}]", " the", "é", "日本",
                "name", "\"name", "\n\n", "  ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
      .tags = {"<think>", "</think>", "<tool_call>", "</tool_call>"}};
  return vocabulary;
}

int32_t Tag(int32_t i) { return Vocabulary().first_tag() + i; }

constexpr char kSchema[] =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":40},
        "tags":{"type":"array","items":{"enum":["a","b\n"]},"minItems":2},
        "next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},
        "required":["name","tags"],"additionalProperties":false})";

struct Run {
  std::string text;     // of the structure
  int32_t thought = 0;  // tokens of thinking, tags included
  bool ended = false;
  int32_t tokens = 0;
};

// Draws tokens at random until the output ends or `limit` is reached.
std::optional<Run> Draw(const StructureParams& params, const ReasoningParams& reasoning,
                        int32_t limit, std::mt19937* random) {
  StructureState state(params, reasoning, {});
  Run run;
  bool thinking = false;
  for (; run.tokens < limit; ++run.tokens) {
    const TokenMask* mask = state.Mask(limit - run.tokens);
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id <= Vocabulary().end_token(); ++id) {
      if (mask == nullptr || IsInMask(mask->words().data(), id)) allowed.push_back(id);
    }
    if (allowed.empty()) return std::nullopt;
    const int32_t token = allowed[(*random)() % allowed.size()];
    if (token == Tag(0)) thinking = true;
    if (thinking || token == Tag(1)) {
      ++run.thought;
    } else if (token != Vocabulary().end_token()) {
      run.text += Vocabulary().TextOf(token);
    }
    if (token == Tag(1)) thinking = false;
    const Verdict verdict = state.Push(token);
    if (verdict == Verdict::kBroken) return std::nullopt;
    if (verdict == Verdict::kEnds) {
      run.ended = true;
      return run;
    }
    if (verdict == Verdict::kFree && token == Vocabulary().end_token()) return run;
  }
  return run;
}

std::string WithoutLineFeeds(std::string text) {
  text.erase(0, text.find_first_not_of('\n'));
  return text;
}

// Whatever is drawn, and wherever max_tokens falls, the output is complete when it ends.
TEST(StructureStateTest, OutputsAreCompleteAtEveryLimit) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto structure = *Structure::Compile(
      {.kind = StructureSpec::Kind::kJsonSchema, .text = kSchema}, Vocabulary().Tokens());
  const StructureParams params{.structure = structure};
  const auto shortest = static_cast<int32_t>(structure->shortest_tokens());
  for (int32_t limit = shortest; limit < shortest + 60; ++limit) {
    for (int32_t i = 0; i < 4; ++i) {
      const auto run = Draw(params, {}, limit, &random);
      ASSERT_TRUE(run.has_value()) << limit;
      EXPECT_TRUE(Accepts(*structure, run->text)) << limit << ": " << run->text;
    }
  }
}

TEST(StructureStateTest, ThinkingLeavesRoomForTheStructure) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const auto structure = *Structure::Compile(
      {.kind = StructureSpec::Kind::kJsonSchema, .text = kSchema}, Vocabulary().Tokens());
  const StructureParams params{.structure = structure};
  ReasoningParams reasoning{.parse = true, .start_token_id = Tag(0), .end_token_id = Tag(1)};
  const auto shortest = static_cast<int32_t>(structure->shortest_tokens());
  int32_t thoughts = 0;
  for (int32_t limit = shortest; limit < shortest + 40; ++limit) {
    for (int32_t i = 0; i < 60; ++i) {
      const auto run = Draw(params, reasoning, limit, &random);
      ASSERT_TRUE(run.has_value()) << limit;
      EXPECT_TRUE(Accepts(*structure, WithoutLineFeeds(run->text))) << limit << ": " << run->text;
      if (run->thought > 0) ++thoughts;
    }
  }
  EXPECT_GT(thoughts, 0);
}

TEST(StructureStateTest, CallsAreMadeOrNotBegun) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  StructureSpec spec{.kind = StructureSpec::Kind::kTools,
                     .tools = {{"f", R"({"type":"object","properties":{"x":{"type":"integer"}},
                                         "required":["x"],"additionalProperties":false})"},
                               {"g", ""}},
                     .format = ToolCallFormat::kHermes};
  spec.single_call = true;
  const auto structure = *Structure::Compile(spec, Vocabulary().Tokens());
  const StructureParams required{.structure = structure};
  const StructureParams optional{
      .structure = structure, .optional_calls = true, .opening_token_id = Tag(2)};
  const auto shortest = static_cast<int32_t>(structure->shortest_tokens());
  for (int32_t limit = shortest; limit < shortest + 30; ++limit) {
    const auto run = Draw(required, {}, limit, &random);
    ASSERT_TRUE(run.has_value());
    EXPECT_TRUE(run->ended);
    EXPECT_TRUE(run->text.starts_with("<tool_call>\n{\"name\": \"")) << run->text;
    EXPECT_TRUE(run->text.ends_with("}\n</tool_call>")) << run->text;
  }
  for (int32_t i = 0; i < 300; ++i) {
    const auto run = Draw(optional, {}, shortest + i % 20, &random);
    ASSERT_TRUE(run.has_value());
    const size_t open = run->text.rfind("<tool_call>");
    if (open == std::string::npos) continue;
    EXPECT_NE(run->text.find("</tool_call>", open), std::string::npos) << run->text;
  }
}

}  // namespace
}  // namespace tessera
