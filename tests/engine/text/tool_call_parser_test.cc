#include "engine/text/tool_call_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json.h"

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
       {{"g", "{\"x\": \"éé\"}"}}},
      {kHermes,
       "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\":1}\"}</tool_call>",
       "",
       {{"f", "{\"a\": 1}"}}},
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
      {kCoder, "<tool_call>junk</tool_call>!", "<tool_call>junk</tool_call>!", {}},
      {kCoder,
       "<tool_call><function=f><parameter=</function></tool_call>",
       "<tool_call><function=f><parameter=</function></tool_call>",
       {}},
  };
}

ToolCallOutput Parse(const Case& test, const std::vector<size_t>& cuts) {
  int next_id = 0;
  ToolCallParser parser({.format = test.format,
                         .tools = *jinja::ParseJson(kTools),
                         .make_id = [&next_id] { return jinja::Concat("call_x", next_id++); }});
  ToolCallOutput all;
  const auto add = [&all](ToolCallOutput output) {
    all.content += output.content;
    for (ToolCallDelta& delta : output.calls) all.calls.push_back(std::move(delta));
  };
  size_t begin = 0;
  for (const size_t cut : cuts) {
    add(parser.Push(test.text.substr(begin, cut - begin)));
    begin = cut;
  }
  add(parser.Push(test.text.substr(begin)));
  add(parser.Finish());
  EXPECT_EQ(parser.num_calls(), static_cast<int>(all.calls.size()));
  return all;
}

void ExpectCase(const Case& test, const std::vector<size_t>& cuts) {
  const ToolCallOutput all = Parse(test, cuts);
  ASSERT_EQ(all.content, test.content) << test.text;
  ASSERT_EQ(all.calls.size(), test.calls.size()) << test.text;
  for (size_t i = 0; i < all.calls.size(); ++i) {
    ASSERT_EQ(all.calls[i].index, static_cast<int>(i));
    ASSERT_EQ(all.calls[i].id, jinja::Concat("call_x", i));
    ASSERT_EQ(all.calls[i].name, test.calls[i].first);
    ASSERT_EQ(all.calls[i].arguments_fragment, test.calls[i].second);
  }
}

TEST(ToolCallParserTest, ParsesWholeOutputs) {
  for (const Case& test : Cases()) ExpectCase(test, {});
}

TEST(ToolCallParserTest, EverySplitGivesTheSame) {
  const uint32_t seed = 20250721;
  std::mt19937 random(seed);
  for (const Case& test : Cases()) {
    for (size_t a = 0; a <= test.text.size(); ++a) ExpectCase(test, {a});
    for (int round = 0; round < 100; ++round) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << round);
      std::vector<size_t> cuts;
      const uint32_t rarity = 1 + random() % 8;
      for (size_t i = 0; i <= test.text.size(); ++i) {
        if (random() % rarity == 0) cuts.push_back(i);
      }
      ExpectCase(test, cuts);
    }
  }
}

TEST(ToolCallParserTest, TextStreamsUntilATagMayBegin) {
  ToolCallParser parser({});
  EXPECT_EQ(parser.Push("I will call").content, "I will call");
  EXPECT_EQ(parser.Push(" <tool").content, "");
  EXPECT_EQ(parser.Push("box>").content, " <toolbox>");
}

// A long output of brackets and tags must not take quadratic time.
TEST(ToolCallParserTest, HostileOutputsAreLinear) {
  for (const char* unit : {"<tool_call>", "<tool_call>\"", "</tool_call>", "<tool_call>[{"}) {
    ToolCallParser parser({});
    for (int i = 0; i < 20'000; ++i) parser.Push(unit);
    parser.Finish();
    EXPECT_EQ(parser.num_calls(), 0);
  }
}

}  // namespace
}  // namespace tessera
