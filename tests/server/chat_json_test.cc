#include "server/chat_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

TEST(ChatJsonTest, ReadsOpenAiStyleMessages) {
  const auto chat = ParseChatPrompt(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
          {"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
            {"id": "c1", "type": "function",
             "function": {"name": "f", "arguments": {"z": 1, "a": [true, "x"]}}},
            {"name": "g", "arguments": "{}"}]},
          {"role": "tool", "tool_call_id": "c1", "content": "7"}])",
      R"([{"type": "function", "function": {"name": "f"}}])");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ASSERT_EQ(chat->messages_size(), 3);
  EXPECT_EQ(chat->messages(0).content(), "a\nb");
  const v1::ChatMessage& assistant = chat->messages(1);
  EXPECT_EQ(assistant.content(), "");
  EXPECT_EQ(assistant.reasoning_content(), "hm");
  ASSERT_EQ(assistant.tool_calls_size(), 2);
  EXPECT_EQ(assistant.tool_calls(0).id(), "c1");
  EXPECT_EQ(assistant.tool_calls(0).arguments(), R"({"z":1,"a":[true,"x"]})");
  EXPECT_EQ(assistant.tool_calls(1).name(), "g");
  EXPECT_EQ(chat->messages(2).tool_call_id(), "c1");
  ASSERT_EQ(chat->tools_size(), 1);
  EXPECT_TRUE(IsJsonObject(chat->tools(0)));
}

TEST(ChatJsonTest, TakesAnObjectWithMessages) {
  const auto chat = ParseChatPrompt(R"({"messages": [{"role": "user", "content": "x"}]})", "");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->messages(0).content(), "x");
}

TEST(ChatJsonTest, ErrorsSayWhere) {
  const auto error = [](const char* messages, const char* tools = "") {
    return std::string(ParseChatPrompt(messages, tools).status().message());
  };
  EXPECT_THAT(error("nope"), HasSubstr("not valid JSON"));
  EXPECT_THAT(error("3"), HasSubstr("array"));
  EXPECT_THAT(error("[3]"), HasSubstr("messages[0]"));
  EXPECT_THAT(error(R"([{"role": 3}])"), HasSubstr("messages[0].role"));
  EXPECT_THAT(error(R"([{"role": "user", "content": [{"image": 1}]}])"), HasSubstr("text parts"));
  EXPECT_THAT(error(R"([{"role": "assistant", "tool_calls": 3}])"), HasSubstr("tool_calls"));
  EXPECT_THAT(error("[]"), HasSubstr("messages: must have at least one"));
  EXPECT_THAT(error(R"([{"role": "user"}])", "{}"), HasSubstr("tools"));
}

// The model sees the keys of a tool in the order of the file, and its numbers as they are.
TEST(ChatJsonTest, ToolsKeepOrderAndDigits) {
  const auto chat = ParseChatPrompt(R"([{"role": "user"}])",
                                    R"([{"z": 123456789012345678901234, "b": 1.0, "a": null}])");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->tools(0), R"({"z":123456789012345678901234,"b":1.0,"a":null})");
}

// What the template's reader refuses is refused here.
TEST(ChatJsonTest, ToolsThatNestTooDeeplyAreNone) {
  const auto nested = [](int depth) {
    return "{\"a\": " + std::string(depth, '[') + std::string(depth, ']') + "}";
  };
  EXPECT_TRUE(IsJsonObject(nested(100)));
  EXPECT_FALSE(IsJsonObject(nested(200)));
}

TEST(ChatJsonTest, OnlyObjectsAreTools) {
  EXPECT_TRUE(IsJsonObject(" {\"a\": 1}"));
  for (const char* text : {"", "[]", "1", "{", "{\"a\": nan}", "{} {}"}) {
    EXPECT_FALSE(IsJsonObject(text)) << text;
  }
}

}  // namespace
}  // namespace tessera
