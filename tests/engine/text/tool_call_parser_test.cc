#include "engine/text/tool_call_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/utf8.h"
#include "tests/engine/text/tool_call_cases.h"
#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

using Case = ToolCallCase;

constexpr ToolCallFormat kCoder = ToolCallFormat::kCoderXml;

// Joins fragments as clients do, and checks what each delta promises.
void Join(const ToolCallOutput& output, ToolCallOutput* all) {
  all->content += output.content;
  for (const ToolCallDelta& delta : output.calls) {
    ASSERT_TRUE(IsValidUtf8(delta.arguments_fragment)) << delta.arguments_fragment;
    if (delta.index == static_cast<int>(all->calls.size())) {
      ASSERT_FALSE(delta.id.empty() || delta.name.empty());
      all->calls.push_back(delta);
      continue;
    }
    ASSERT_EQ(delta.index, static_cast<int>(all->calls.size()) - 1);
    ASSERT_TRUE(delta.id.empty() && delta.name.empty()) << "named twice";
    ASSERT_FALSE(delta.arguments_fragment.empty()) << "says nothing";
    all->calls.back().arguments_fragment += delta.arguments_fragment;
  }
}

ToolCallOutput Parse(const Case& test, const std::vector<size_t>& cuts) {
  int next_id = 0;
  ToolCallParser parser({.format = test.format,
                         .tools = *jinja::ParseJson(kCallableTools),
                         .make_id = [&next_id] { return jinja::Concat("call_x", next_id++); }});
  ToolCallOutput all;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    Join(parser.Push(test.text.substr(begin, cut - begin)), &all);
    begin = cut;
  }
  Join(parser.Push(test.text.substr(begin)), &all);
  Join(parser.Finish(test.end), &all);
  EXPECT_EQ(parser.num_calls(), static_cast<int>(all.calls.size()));
  EXPECT_EQ(parser.num_broken_calls(), test.num_broken);
  return all;
}

bool IsJsonObject(const std::string& text) {
  const auto value = jinja::ParseJson(text);
  return value.ok() && value->is_dict();
}

void ExpectCase(const Case& test, const std::vector<size_t>& cuts) {
  const ToolCallOutput all = Parse(test, cuts);
  ASSERT_EQ(all.content, test.content) << test.text;
  ASSERT_EQ(all.calls.size(), test.calls.size()) << test.text;
  int broken = 0;
  for (size_t i = 0; i < all.calls.size(); ++i) {
    ASSERT_EQ(all.calls[i].index, static_cast<int>(i));
    ASSERT_EQ(all.calls[i].id, jinja::Concat("call_x", i));
    ASSERT_EQ(all.calls[i].name, test.calls[i].first);
    ASSERT_EQ(all.calls[i].arguments_fragment, test.calls[i].second);
    if (!IsJsonObject(all.calls[i].arguments_fragment)) ++broken;
  }
  ASSERT_EQ(broken, test.num_broken) << test.text;
}

TEST(ToolCallParserTest, ParsesWholeOutputs) {
  for (const Case& test : ToolCallCases()) ExpectCase(test, {});
}

TEST(ToolCallParserTest, EverySplitGivesTheSame) {
  constexpr int kRounds = 250;
  const uint32_t seed = 20250721;
  std::mt19937 random(seed);
  int splits = 0;
  for (const Case& test : ToolCallCases()) {
    for (size_t a = 0; a <= test.text.size(); ++a) ExpectCase(test, {a});
    for (int round = 0; round < kRounds; ++round) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << round);
      std::vector<size_t> cuts;
      const uint32_t rarity = 1 + random() % 8;
      for (size_t i = 0; i <= test.text.size(); ++i) {
        if (random() % rarity == 0) cuts.push_back(i);
      }
      ExpectCase(test, cuts);
      ++splits;
    }
  }
  EXPECT_GE(splits, 25'000);
}

TEST(ToolCallParserTest, TextStreamsUntilATagMayBegin) {
  ToolCallParser parser({});
  EXPECT_EQ(parser.Push("I will call").content, "I will call");
  EXPECT_EQ(parser.Push(" <tool").content, "");
  EXPECT_EQ(parser.Push("box>").content, " <toolbox>");
}

// One character at a time: what the client sees after each.
TEST(ToolCallParserTest, ArgumentsStreamAsTheyAreTyped) {
  ToolCallParser parser({});
  const auto push = [&parser](std::string_view text) {
    ToolCallOutput last;
    for (const char c : text) Join(parser.Push({&c, 1}), &last);
    return last;
  };
  EXPECT_TRUE(push("<tool_call>\n{\"name\": \"get\", \"arguments\": ").calls.empty());
  const ToolCallOutput head = parser.Push("{");
  ASSERT_EQ(head.calls.size(), 1U);
  EXPECT_EQ(head.calls[0], (ToolCallDelta{0, "call_0", "get", "{"}));
  const auto fragment = [&parser](std::string_view text) {
    const ToolCallOutput output = parser.Push(text);
    EXPECT_EQ(output.content, "");
    return output.calls.empty() ? "" : output.calls[0].arguments_fragment;
  };
  EXPECT_EQ(fragment("\"city\": \"S"), "\"city\": \"S");
  EXPECT_EQ(fragment("\xC3"), "") << "half a character";
  EXPECT_EQ(fragment("\xA3o"), "\xC3\xA3o");
  EXPECT_EQ(fragment("\\u00"), "") << "half an escape sequence";
  EXPECT_EQ(fragment("e9\", \"n\": 12"), "\\u00e9\", \"n\": ") << "a number may go on";
  EXPECT_EQ(fragment("}"), "12}");
  EXPECT_EQ(fragment("}\n</tool_call>"), "") << "behind the arguments";
  EXPECT_EQ(parser.Push("ok").content, "ok");
  EXPECT_EQ(parser.num_calls(), 1);
}

TEST(ToolCallParserTest, CoderArgumentsStreamAsTheyAreTyped) {
  ToolCallParser parser({.format = kCoder, .tools = *jinja::ParseJson(kCallableTools)});
  EXPECT_TRUE(parser.Push("<tool_call>\n<function=f>\n<parameter=i").calls.empty());
  const ToolCallOutput first = parser.Push(">\n4");
  ASSERT_EQ(first.calls.size(), 1U);
  EXPECT_EQ(first.calls[0], (ToolCallDelta{0, "call_0", "f", "{\"i\": "}));
  const auto fragment = [&parser](std::string_view text) {
    const ToolCallOutput output = parser.Push(text);
    EXPECT_EQ(output.content, "");
    return output.calls.empty() ? "" : output.calls[0].arguments_fragment;
  };
  EXPECT_EQ(fragment("2\n</parameter>"), "") << "a number may go on";
  EXPECT_EQ(fragment("\n<parameter=s>\n"), "42, \"s\": \"");
  EXPECT_EQ(fragment("x"), "x");
  EXPECT_EQ(fragment(" \"y\"\n"), " \\\"y\\\"") << "the line end may be the format's";
  EXPECT_EQ(fragment("z\xC3"), "\\nz") << "half a character";
  EXPECT_EQ(fragment("\xA3 < </para"), "\xC3\xA3 < ");
  EXPECT_EQ(fragment("meter> \n"), "");
  EXPECT_EQ(fragment("more"), "</parameter> \\nmore");
  EXPECT_EQ(fragment("\n</parameter>\n</function>"), "\"}");
  EXPECT_TRUE(parser.Push("\n</tool_call>\n").content.empty());
}

TEST(ToolCallParserTest, SaysWhereTheFirstCallBegins) {
  ToolCallParser parser({});
  parser.Push("a <tool_call> b ");
  EXPECT_FALSE(parser.first_call().has_value());
  parser.Push("<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>");
  EXPECT_EQ(parser.first_call(), 16U);
}

// References in circles and alternatives within alternatives take bounded time.
TEST(ToolCallParserTest, SchemasMayBeHostile) {
  std::string schema =
      "{\"anyOf\": [{\"$ref\": \"#\"}, {\"$ref\": \"#/anyOf/0\"}, {\"$ref\": \"#\"}]}";
  std::string tools = "[{\"name\": \"f\", \"parameters\": " + schema + "}]";
  ToolCallParser parser({.format = kCoder, .tools = *jinja::ParseJson(tools)});
  const double begun = ThreadCpuSeconds();
  std::string text = "<function=f><parameter=a>";
  for (int i = 0; i < 300; ++i) text += "<parameter=a>";
  parser.Push(text);
  parser.Finish(TextEnd::kStopped);
  EXPECT_LT(ThreadCpuSeconds() - begun, 2 * kSlowdown);
}

// An output that a model can be talked into writing: `begin`, then `unit` again and again.
struct HostileOutput {
  ToolCallFormat format;
  const char* begin;
  const char* unit;
};

std::vector<HostileOutput> HostileOutputs() {
  std::vector<HostileOutput> outputs;
  for (const ToolCallFormat format : {ToolCallFormat::kHermes, ToolCallFormat::kCoderXml}) {
    for (const char* unit : {"<tool_call>",
                             "<tool_call>\"",
                             "</tool_call>",
                             "<tool_call>[{",
                             "<tool_call>{\"",
                             "<tool_call>{\"x\":\"",
                             "<tool_call>{\"x",
                             "<tool_call> ",
                             "<tool_call><function=",
                             "<tool_call><function=f>",
                             "<tool_call><function=f><parameter=a",
                             "<tool_call><function=f><parameter=",
                             "<tool_call>[",
                             "<tool_call>```",
                             "<tool_call>{'",
                             "<tool_call>{'x': \"",
                             "<function=f>",
                             "<function=f><parameter=s>",
                             "</parameter>",
                             "</function>",
                             "<parameter=s>",
                             "<parameter=x"}) {
      outputs.push_back({format, "", unit});
    }
    // One block that swallows all others and fails at the end.
    outputs.push_back({format, "<tool_call>{\"x", "<tool_call>"});
    outputs.push_back({format, "<tool_call>{\"name\":\"", "<tool_call>{"});
    outputs.push_back({format, "<tool_call><function=f><parameter=a>", "<tool_call>"});
    outputs.push_back({format, "<tool_call><function=f><parameter=a>", "</function> <"});
    outputs.push_back({format, "<tool_call><function=f><parameter=a>", "</parameter> "});
    outputs.push_back({format, "<tool_call><function=f><parameter=a>", "<parameter=x"});
    outputs.push_back({format, "<tool_call>{'x", "<tool_call>{\"y"});
    // What is held back while nobody knows what it is.
    for (const char* begin :
         {"text", "<tool_call>", "<tool_call>{", "<tool_call><function=f>", "<tool_call><function=",
          "<tool_call><function=f><parameter=", "<tool_call><function=f><parameter=a>",
          "<tool_call><function=f><parameter=a></function>",
          "<tool_call><function=f><parameter=a></parameter></function>",
          "<tool_call>{\"name\": \"f\", \"arguments\": {}}", "<tool_call>```",
          "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", "<tool_call>{a",
          "<function=f><parameter=a></parameter>", "<tool_call><function=f></function>"}) {
      outputs.push_back({format, begin, " "});
      outputs.push_back({format, begin, "x"});
    }
  }
  return outputs;
}

// Processor time for `count` units, in one piece or one by one.
double SecondsToParse(const HostileOutput& output, int count, bool streamed) {
  ToolCallParser parser({.format = output.format});
  std::string text = output.begin;
  for (int i = 0; i < count && !streamed; ++i) text += output.unit;
  const double begun = ThreadCpuSeconds();
  parser.Push(text);
  for (int i = 0; i < count && streamed; ++i) parser.Push(output.unit);
  parser.Finish(TextEnd::kStopped);
  return ThreadCpuSeconds() - begun;
}

// The engine's thread parses for everyone. Four times the text may take four times as long; sixteen
// times would be quadratic.
TEST(ToolCallParserTest, HostileOutputsAreLinear) {
  constexpr int kUnits = 10'000;
  constexpr double kTooShortToCompare = 0.05 * kSlowdown;
  constexpr double kMost = 9;
  for (const HostileOutput& output : HostileOutputs()) {
    for (const bool streamed : {false, true}) {
      const double all = SecondsToParse(output, 4 * kUnits, streamed);
      if (all < kTooShortToCompare) continue;
      EXPECT_LT(all, kMost * SecondsToParse(output, kUnits, streamed))
          << output.begin << output.unit << output.unit << "... " << (streamed ? "streamed" : "");
    }
  }
}

}  // namespace
}  // namespace tessera
