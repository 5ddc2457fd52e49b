#include "engine/text/tool_call_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/utf8.h"
#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

const char kTools[] = R"([{"type": "function", "function": {"name": "f", "parameters": {
    "properties": {"s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
                   "b": {"type": "boolean"}, "o": {"type": "object"}, "a": {"type": "array"},
                   "m": {"type": ["integer", "null"]}, "u": {"anyOf": [{"type": "integer"},
                   {"type": "string"}]}}}}}])";

struct Case {
  ToolCallFormat format;
  std::string text;
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  int num_broken = 0;
};

std::vector<Case> Cases() {
  constexpr ToolCallFormat kHermes = ToolCallFormat::kHermes;
  constexpr ToolCallFormat kCoder = ToolCallFormat::kCoderXml;
  const std::string f = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
  const auto coder = [](const std::string& body) {
    return "<tool_call>\n<function=f>\n" + body + "</function>\n</tool_call>";
  };
  const auto parameter = [](const std::string& key, const std::string& value) {
    return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
  };
  return {
      {kHermes, "just text\n", "just text\n", {}},
      {kHermes, "", "", {}},
      {kHermes, f, "", {{"f", "{\"a\": 1}"}}},
      {kHermes, "Let me see.\n" + f, "Let me see.", {{"f", "{\"a\": 1}"}}},
      {kHermes, f + "\n" + f + "\n", "", {{"f", "{\"a\": 1}"}, {"f", "{\"a\": 1}"}}},
      {kHermes, f + "\ndone ", "\ndone ", {{"f", "{\"a\": 1}"}}},
      {kHermes,
       "<tool_call>{\"arguments\":{\"x\":\"é\\u00e9\"},\"name\":\"g\"}</tool_call>",
       "",
       {{"g", "{\"x\":\"é\\u00e9\"}"}}},
      {kHermes,
       "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\":1}\"}</tool_call>",
       "",
       {{"f", "{\"a\":1}"}}},
      {kHermes, "<tool_call>{\"name\": \"f\", \"parameters\": {}}</tool_call>", "", {{"f", "{}"}}},
      {kHermes, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}", "", {{"f", "{}"}}},
      {kHermes,
       "<tool_call>{\"name\": \"f\", \"arguments\": {\"t\": \"</tool_call>\"}}</tool_call>",
       "",
       {{"f", "{\"t\": \"</tool_call>\"}"}}},
      {kHermes,
       "<tool_call>{bad}</tool_call> and\n" + f,
       "<tool_call>{bad}</tool_call> and",
       {{"f", "{\"a\": 1}"}}},
      {kHermes,
       "<tool_call>{\"name\": \"f\"}</tool_call>",
       "<tool_call>{\"name\": \"f\"}</tool_call>",
       {}},
      {kHermes,
       "<tool_call>{\"name\": \"f, x</tool_call> z",
       "<tool_call>{\"name\": \"f, x</tool_call> z",
       {}},
      {kHermes,
       "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n<tool_call>\n" + f.substr(12),
       "",
       {{"f", "{}"}, {"f", "{\"a\": 1}"}}},
      // As typed, whatever the order of the keys; nested names are no names.
      {kHermes,
       R"(<tool_call>{"id": 1.5e3, "arguments":{ "name" : [ {"name":"x"} ] }, "name": "f"}</tool_call>)",
       "",
       {{"f", R"({ "name" : [ {"name":"x"} ] })"}}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"e": "\"}\\", "p": "\ud83d\ude00"}, "arguments": 1}</tool_call>)",
       "",
       {{"f", R"({"e": "\"}\\", "p": "\ud83d\ude00"})"}}},
      // Braces that are missing or too many do not matter behind the arguments.
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {} </tool_call>!)", "!", {{"f", "{}"}}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {}}} </tool_call>!)",
       "} </tool_call>!",
       {{"f", "{}"}}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {}, "x": "</tool_call>", "y": tru</tool_call>!)",
       "tru</tool_call>!",
       {{"f", "{}"}}},
      // Never became a call.
      {kHermes,
       R"(<tool_call>{"name": "", "arguments": {}}</tool_call>)",
       R"(<tool_call>{"name": "", "arguments": {}}</tool_call>)",
       {}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>)",
       R"(<tool_call>{"name": "f", "arguments": "[1]"}</tool_call>)",
       {}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": [1]}</tool_call>)",
       R"(<tool_call>{"name": "f", "arguments": [1]}</tool_call>)",
       {}},
      {kHermes,
       R"(<tool_call>{"arguments": {"a": 01}, "name": "f"}</tool_call>)",
       R"(<tool_call>{"arguments": {"a": 01}, "name": "f"}</tool_call>)",
       {}},
      {kHermes, R"(<tool_call>{"name": "f", "argum)", R"(<tool_call>{"name": "f", "argum)", {}},
      // Broke off: what was reported stays, the rest is content.
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": "b)", "", {{"f", R"({"a": "b)"}}, 1},
      {kHermes,
       "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b\nc\"}}</tool_call> " + f,
       "\nc\"}}</tool_call>",
       {{"f", "{\"a\": \"b"}, {"f", "{\"a\": 1}"}},
       1},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": nil}}</tool_call>)",
       "nil}}</tool_call>",
       {{"f", R"({"a": )"}},
       1},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": 1 </tool_call> then)",
       " then",
       {{"f", R"({"a": 1 )"}},
       1},
      {kHermes, "a <tool_cal", "a <tool_cal", {}},
      {kHermes, "a <tool_call", "a <tool_call", {}},
      {kHermes, "a <tool_call> ", "a <tool_call> ", {}},
      {kHermes, "x < y <tool <tool_call> <", "x < y <tool <tool_call> <", {}},
      {kCoder, coder(""), "", {{"f", "{}"}}},
      {kCoder,
       "Ok.\n" + coder(parameter("s", "1") + parameter("i", "2") + parameter("n", "2.50")),
       "Ok.",
       {{"f", "{\"s\": \"1\", \"i\": 2, \"n\": 2.5}"}}},
      {kCoder,
       coder(parameter("b", "True") + parameter("o", "{\"k\":[1]}") + parameter("a", "[]")),
       "",
       {{"f", "{\"b\": true, \"o\": {\"k\": [1]}, \"a\": []}"}}},
      {kCoder,
       coder(parameter("i", "many") + parameter("m", "null") + parameter("u", "x")),
       "",
       {{"f", "{\"i\": \"many\", \"m\": null, \"u\": \"x\"}"}}},
      {kCoder,
       coder(parameter("s", "\na\n</tool_call>\nb\n") + parameter("unknown", "5")),
       "",
       {{"f", "{\"s\": \"\\na\\n</tool_call>\\nb\\n\", \"unknown\": \"5\"}"}}},
      {kCoder,
       coder("<parameter=s>x</parameter>") + "\n" + coder(parameter("s", "y")),
       "",
       {{"f", "{\"s\": \"x\"}"}, {"f", "{\"s\": \"y\"}"}}},
      {kCoder, "<tool_call>\n<function=f>\n</function>", "", {{"f", "{}"}}},
      {kCoder, coder(parameter("\xDB", "x")), coder(parameter("\xDB", "x")), {}},
      {kCoder,
       coder(parameter("s", "x") + parameter("\xDB", "y")),
       parameter("\xDB", "y") + "</function>\n</tool_call>",
       {{"f", "{\"s\": \"x\""}},
       1},
      {kCoder,
       coder(parameter("s", "x") + "and " + parameter("s", "y")) + "\n" + coder(""),
       "and " + parameter("s", "y") + "</function>\n</tool_call>",
       {{"f", "{\"s\": \"x\""}, {"f", "{}"}},
       1},
      {kCoder,
       "<tool_call>\n<function=f>\n" + parameter("s", "x") + "<parameter=i>\n12",
       "",
       {{"f", "{\"s\": \"x\""}},
       1},
      {kCoder,
       "<tool_call><function=f><parameter=s>x</function></parameter><parameter=i>\n7</function>\n",
       "",
       {{"f", "{\"s\": \"x</function>\", \"i\": 7}"}}},
      {kCoder,
       "<tool_call><function=f></function>\n<tool_call><function=f></function></tool_call>",
       "",
       {{"f", "{}"}, {"f", "{}"}}},
      {kCoder, "<tool_call>junk</tool_call>!", "<tool_call>junk</tool_call>!", {}},
      {kCoder,
       "<tool_call><function=f><parameter=</function></tool_call>",
       "<tool_call><function=f><parameter=</function></tool_call>",
       {}},
  };
}

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
                         .tools = *jinja::ParseJson(kTools),
                         .make_id = [&next_id] { return jinja::Concat("call_x", next_id++); }});
  ToolCallOutput all;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    Join(parser.Push(test.text.substr(begin, cut - begin)), &all);
    begin = cut;
  }
  Join(parser.Push(test.text.substr(begin)), &all);
  Join(parser.Finish(), &all);
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
  for (const Case& test : Cases()) ExpectCase(test, {});
}

TEST(ToolCallParserTest, EverySplitGivesTheSame) {
  constexpr int kRounds = 2500;
  const uint32_t seed = 20250721;
  std::mt19937 random(seed);
  int splits = 0;
  for (const Case& test : Cases()) {
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
  EXPECT_GE(splits, 100'000);
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

TEST(ToolCallParserTest, CoderArgumentsStreamByParameter) {
  ToolCallParser parser({.format = ToolCallFormat::kCoderXml, .tools = *jinja::ParseJson(kTools)});
  EXPECT_TRUE(parser.Push("<tool_call>\n<function=f>\n<parameter=i>\n4").calls.empty());
  const ToolCallOutput first = parser.Push("2\n</parameter>");
  ASSERT_EQ(first.calls.size(), 1U);
  EXPECT_EQ(first.calls[0], (ToolCallDelta{0, "call_0", "f", "{\"i\": 42"}));
  EXPECT_TRUE(parser.Push("\n<parameter=s>\nx").calls.empty());
  const ToolCallOutput second = parser.Push("\n</parameter>\n");
  ASSERT_EQ(second.calls.size(), 1U);
  EXPECT_EQ(second.calls[0], (ToolCallDelta{0, "", "", ", \"s\": \"x\""}));
  EXPECT_EQ(parser.Push("</function>").calls.at(0).arguments_fragment, "}");
  EXPECT_TRUE(parser.Push("\n</tool_call>\n").content.empty());
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
    for (const char* unit :
         {"<tool_call>", "<tool_call>\"", "</tool_call>", "<tool_call>[{", "<tool_call>{\"",
          "<tool_call>{\"x\":\"", "<tool_call>{\"x", "<tool_call> ",
          "<tool_call><function=", "<tool_call><function=f>", "<tool_call><function=f><parameter=a",
          "<tool_call><function=f><parameter="}) {
      outputs.push_back({format, "", unit});
    }
    // One block that swallows all others and fails at the end.
    outputs.push_back({format, "<tool_call>{\"x", "<tool_call>"});
    outputs.push_back({format, "<tool_call>{\"name\":\"", "<tool_call>{"});
    outputs.push_back({format, "<tool_call><function=f><parameter=a>", "<tool_call>"});
    outputs.push_back({format, "<tool_call><function=f><parameter=a>", "</function> <"});
    // What is held back while nobody knows what it is.
    for (const char* begin :
         {"text", "<tool_call>", "<tool_call>{", "<tool_call><function=f>", "<tool_call><function=",
          "<tool_call><function=f><parameter=", "<tool_call><function=f><parameter=a>",
          "<tool_call><function=f><parameter=a></function>",
          "<tool_call><function=f><parameter=a></parameter></function>",
          "<tool_call>{\"name\": \"f\", \"arguments\": {}}"}) {
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
  parser.Finish();
  return ThreadCpuSeconds() - begun;
}

// The engine's thread parses for everyone. Four times the text may take four times as long; sixteen
// times would be quadratic.
TEST(ToolCallParserTest, HostileOutputsAreLinear) {
  constexpr int kUnits = 50'000;
  constexpr double kTooShortToCompare = 0.1 * kSlowdown;
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
