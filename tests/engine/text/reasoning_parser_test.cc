#include "engine/text/reasoning_parser.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

constexpr ThinkTokens kTokens = {.open = 100, .close = 101};

struct Case {
  const char* text;
  ReasoningState initial;
  const char* reasoning;
  const char* content;
  std::optional<ToolCallFormat> calls = std::nullopt;
};

constexpr ReasoningState kStart = ReasoningState::kStart;
constexpr ReasoningState kReasoning = ReasoningState::kReasoning;
constexpr ReasoningState kContent = ReasoningState::kContent;
constexpr ToolCallFormat kHermes = ToolCallFormat::kHermes;
constexpr ToolCallFormat kCoder = ToolCallFormat::kCoderXml;

const Case kCases[] = {
    {"<think>\nwhy\n</think>\n\nanswer", kStart, "why", "answer"},
    {"<think>\n\n</think>\n\nanswer", kStart, "", "answer"},
    {"<think></think>answer", kStart, "", "answer"},
    {"\n <think>a\n\nb</think>\nc\n", kStart, "a\n\nb", "c\n"},
    {"plain answer", kStart, "", "plain answer"},
    {"  plain", kStart, "", "  plain"},
    {"", kStart, "", ""},
    {"\n\n", kStart, "", "\n\n"},
    {"<thi", kStart, "", "<thi"},
    {"<thinker>", kStart, "", "<thinker>"},
    {"<think>truncated\n\n", kStart, "truncated", ""},
    {"<think>ends in tag </thin", kStart, "ends in tag </thin", ""},
    {"<think>a < b </ c</think>d", kStart, "a < b </ c", "d"},
    {"<think>a</think>b<think>c</think>d", kStart, "a", "b<think>c</think>d"},
    {"\nwhy\n</think>\n\nanswer", kReasoning, "why", "answer"},
    {"</think>answer", kReasoning, "", "answer"},
    {"\n\n</think>\n\n", kReasoning, "", ""},
    {"why</think></think>x", kReasoning, "why", "</think>x"},
    {"<</think>x", kReasoning, "<", "x"},
    {"</</think>x", kReasoning, "</", "x"},
    {"\nno <think> here</think>", kContent, "", "\nno <think> here</think>"},
    {"a<tool_call>b</think>c", kReasoning, "a<tool_call>b", "c"},
    // Calls in reasoning that nothing closes end it.
    {"plan\n<tool_call>{\"name\": \"f\"}</tool_call>\n", kReasoning, "plan",
     "<tool_call>{\"name\": \"f\"}</tool_call>\n", kHermes},
    {"<think>plan\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}", kStart, "plan",
     "<tool_call>\n{\"name\": \"f\", \"arguments\": {}", kHermes},
    {"a <tool_call> b <tool_call>{\"name\": \"f\"}", kReasoning, "a <tool_call> b ",
     "<tool_call>{\"name\": \"f\"}", kHermes},
    {"a <tool_call>{\"name\": \"f\"}</tool_call> b\n</think>\nc", kReasoning,
     "a <tool_call>{\"name\": \"f\"}</tool_call> b", "c", kHermes},
    {"the <tool_call> tag\n", kReasoning, "the <tool_call> tag", "", kHermes},
    {"a <tool_call>{\"name", kReasoning, "a <tool_call>{\"name", "", kHermes},
    {"a <tool_call>{\"x<tool_call>{\"name\": \"f\"}", kReasoning, "a <tool_call>{\"x",
     "<tool_call>{\"name\": \"f\"}", kHermes},
    {"a <function=f>\n</function>", kReasoning, "a <function=f>\n</function>", "", kHermes},
    {"a <function=f>\n</function>", kReasoning, "a ", "<function=f>\n</function>", kCoder},
    {"<tool_call>{\"name\": \"f\"}", kReasoning, "", "<tool_call>{\"name\": \"f\"}", kHermes},
    {"<tool_call>{\"name\": \"f\"}", kReasoning, "<tool_call>{\"name\": \"f\"}", ""},
    {"x</think>y<tool_call>{\"name\": \"f\"}", kReasoning, "x", "y<tool_call>{\"name\": \"f\"}",
     kHermes},
};

ReasoningDelta Parse(const Case& test, const std::vector<size_t>& cuts) {
  ReasoningParser::Options options{.initial = test.initial, .tokens = kTokens};
  if (test.calls) options.calls = {.format = *test.calls};
  ReasoningParser parser(options);
  const std::string text = test.text;
  ReasoningDelta all;
  const auto add = [&all](const ReasoningDelta& delta) {
    all.reasoning += delta.reasoning;
    all.content += delta.content;
  };
  size_t begin = 0;
  for (const size_t cut : cuts) {
    const std::string piece = text.substr(begin, cut - begin);
    const int32_t id = piece == "<think>" ? 100 : piece == "</think>" ? 101 : 7;
    add(parser.Push(id, piece));
    begin = cut;
  }
  add(parser.Push(-1, text.substr(begin)));
  add(parser.Finish(TextEnd::kStopped));
  return all;
}

TEST(ReasoningParserTest, SplitsWholeOutputs) {
  for (const Case& test : kCases) {
    const ReasoningDelta all = Parse(test, {});
    EXPECT_EQ(all.reasoning, test.reasoning) << test.text;
    EXPECT_EQ(all.content, test.content) << test.text;
  }
}

TEST(ReasoningParserTest, EverySplitGivesTheSame) {
  const uint32_t seed = 20250428;
  std::mt19937 random(seed);
  for (const Case& test : kCases) {
    const size_t size = std::string(test.text).size();
    const auto check = [&test](const std::vector<size_t>& cuts) {
      const ReasoningDelta all = Parse(test, cuts);
      ASSERT_EQ(all.reasoning, test.reasoning) << test.text;
      ASSERT_EQ(all.content, test.content) << test.text;
    };
    for (size_t a = 0; a <= size; ++a) {
      for (size_t b = a; b <= size; ++b) check({a, b});
    }
    for (int round = 0; round < 200; ++round) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << round);
      std::vector<size_t> cuts;
      for (size_t i = 0; i <= size; ++i) {
        if (random() % 3 == 0) cuts.push_back(i);
      }
      check(cuts);
    }
  }
}

TEST(ReasoningParserTest, StreamsWithoutWaitingForTheEnd) {
  ReasoningParser parser({.tokens = kTokens});
  EXPECT_EQ(parser.Push(100, "<think>").reasoning, "");
  EXPECT_EQ(parser.state(), kReasoning);
  EXPECT_EQ(parser.Push(1, "\nfirst").reasoning, "first");
  EXPECT_EQ(parser.Push(2, "\n").reasoning, "");
  EXPECT_EQ(parser.Push(3, "second").reasoning, "\nsecond");
  EXPECT_EQ(parser.Push(101, "</think>").reasoning, "");
  EXPECT_EQ(parser.Push(4, "\n\nyes").content, "yes");
  EXPECT_EQ(parser.Push(5, "\n").content, "\n");
}

// What is held back must not be looked at again with every token: linear time, not quadratic.
TEST(ReasoningParserTest, HeldWhiteSpaceTakesLinearTime) {
  const auto seconds = [](ReasoningState initial, std::string_view unit, int count) {
    ReasoningParser parser({.initial = initial});
    const double begun = ThreadCpuSeconds();
    for (int i = 0; i < count; ++i) parser.Push(-1, unit);
    parser.Finish(TextEnd::kStopped);
    return ThreadCpuSeconds() - begun;
  };
  constexpr int kUnits = 50'000;
  constexpr double kTooShortToCompare = 0.1 * kSlowdown;
  for (const ReasoningState initial : {kStart, kReasoning, kContent}) {
    for (const char* unit : {" ", "\n", "<", "</think", "<think>"}) {
      const double all = seconds(initial, unit, 4 * kUnits);
      if (all < kTooShortToCompare) continue;
      EXPECT_LT(all, 9 * seconds(initial, unit, kUnits)) << unit;
    }
  }
}

TEST(ReasoningParserTest, InitialStateFollowsThePrompt) {
  const auto state = [](const std::vector<int32_t>& ids, ThinkTokens tokens = kTokens) {
    return InitialReasoningState(ids, tokens);
  };
  EXPECT_EQ(state({}), kStart);
  EXPECT_EQ(state({102, 1, 2}), kStart);
  EXPECT_EQ(state({102, 1, 2, 100, 2}), kReasoning);
  EXPECT_EQ(state({1, 100, 5, 101}), kContent);
  EXPECT_EQ(state({1, 100, 5, 101, 5}), kContent);
  EXPECT_EQ(state({1, 100, 5, 101, 5, 6, 7}), kStart);
  EXPECT_EQ(state({-1, 100, 5}, ThinkTokens{}), kStart);
}

}  // namespace
}  // namespace tessera
