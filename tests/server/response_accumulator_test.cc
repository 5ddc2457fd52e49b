#include "server/response_accumulator.h"

#include <gtest/gtest.h>

#include <string>

#include "engine/text/tool_call_parser.h"

namespace tessera {
namespace {

const char kText[] =
    "Both.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"S\u00e3o\"}}\n</tool_call>"
    "\n<tool_call>\n{\"name\": \"g\", \"arguments\": {\"n\": [1, 2]}}\n</tool_call>";

// The deltas of kText in pieces of so many bytes.
std::vector<TokenDelta> Deltas(size_t piece) {
  ToolCallParser parser({});
  std::vector<TokenDelta> deltas;
  const auto add = [&deltas](ToolCallOutput output) {
    TokenDelta delta{.text = std::move(output.content), .tool_calls = std::move(output.calls)};
    delta.usage.completion_tokens = static_cast<int32_t>(deltas.size()) + 1;
    deltas.push_back(std::move(delta));
  };
  const std::string_view text = kText;
  for (size_t at = 0; at < text.size(); at += piece) add(parser.Push(text.substr(at, piece)));
  add(parser.Finish(TextEnd::kStopped));
  return deltas;
}

TEST(ResponseAccumulatorTest, OneMessageHasWholeToolCallsHoweverTheyWereCut) {
  for (const size_t piece : {size_t{1}, size_t{3}, size_t{7}, std::string(kText).size()}) {
    ResponseAccumulator accumulator;
    accumulator.Begin("r", v1::GenerateRequest());
    for (TokenDelta& delta : Deltas(piece)) accumulator.Add(std::move(delta));
    const v1::GenerateResponse response = accumulator.Take();
    ASSERT_EQ(response.choices_size(), 1);
    const v1::Choice& choice = response.choices(0);
    EXPECT_EQ(choice.text(), "Both.");
    ASSERT_EQ(choice.tool_calls_size(), 2);
    EXPECT_EQ(choice.tool_calls(0).id(), "call_0");
    EXPECT_EQ(choice.tool_calls(0).name(), "f");
    EXPECT_EQ(choice.tool_calls(0).arguments(), "{\"city\": \"S\u00e3o\"}");
    EXPECT_EQ(choice.tool_calls(1).index(), 1);
    EXPECT_EQ(choice.tool_calls(1).arguments(), "{\"n\": [1, 2]}");
  }
}

// The prompt counts once, and the other choices find in the cache what the first one computed.
TEST(ResponseAccumulatorTest, TheFirstChoiceTellsWhatWasCached) {
  ResponseAccumulator accumulator;
  accumulator.Begin("r", v1::GenerateRequest());
  for (int32_t choice = 0; choice < 3; ++choice) {
    accumulator.Add({.choice = choice,
                     .usage = {.prompt_tokens = 152,
                               .cached_tokens = choice == 0 ? 16 : 144,
                               .completion_tokens = 5}});
  }
  const v1::GenerateResponse response = accumulator.Take();
  EXPECT_EQ(response.usage().prompt_tokens(), 152);
  EXPECT_EQ(response.usage().cached_tokens(), 16);
  EXPECT_EQ(response.usage().completion_tokens(), 15);
}

// As a client joins a stream: the name comes once, fragments by index.
TEST(ResponseAccumulatorTest, MessagesOfAStreamHoldFragments) {
  ResponseAccumulator accumulator;
  accumulator.Begin("r", v1::GenerateRequest());
  std::string names;
  std::string arguments[2];
  int messages = 0;
  for (TokenDelta& delta : Deltas(5)) {
    accumulator.Add(std::move(delta));
    const v1::GenerateResponse message = accumulator.Take();
    for (const v1::ToolCall& call : message.choices(0).tool_calls()) {
      ++messages;
      names += call.name();
      ASSERT_LT(call.index(), 2);
      EXPECT_EQ(call.id().empty(), call.name().empty());
      EXPECT_EQ(call.name().empty(), !arguments[call.index()].empty()) << "only the first is named";
      arguments[call.index()] += call.arguments();
    }
  }
  EXPECT_EQ(names, "fg");
  EXPECT_EQ(arguments[0], "{\"city\": \"S\u00e3o\"}");
  EXPECT_EQ(arguments[1], "{\"n\": [1, 2]}");
  EXPECT_GT(messages, 4);
}

TEST(ResponseAccumulatorTest, StepsComeWithTheEndOfAChoiceAndThinkingWithTheFirstMessage) {
  v1::GenerateRequest request;
  request.mutable_response()->set_reasoning_steps(true);
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_AUTO);
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("Why?");
  ResponseAccumulator accumulator;
  accumulator.Begin("r", request);
  accumulator.Add({.choice = 1, .reasoning = "one\ntw"});
  v1::GenerateResponse first = accumulator.Take();
  EXPECT_TRUE(first.thinking().thinks());
  EXPECT_EQ(first.thinking().reason(), v1::ThinkingChoice::REASON_REASONS);
  EXPECT_EQ(first.choices(0).reasoning_steps_size(), 0);
  TokenDelta last{.choice = 1, .reasoning = "o"};
  last.finish =
      ChoiceFinish{.confidence = Confidence{.mean = 0.5F, .lowest = 0.25F, .num_tokens = 3}};
  accumulator.Add(std::move(last));
  const v1::GenerateResponse second = accumulator.Take();
  EXPECT_FALSE(second.has_thinking());
  ASSERT_EQ(second.choices(0).reasoning_steps_size(), 2);
  EXPECT_EQ(second.choices(0).reasoning_steps(1), "two");
  EXPECT_EQ(second.choices(0).finish().confidence().tokens(), 3);
  EXPECT_EQ(second.choices(0).finish().confidence().lowest(), 0.25F);
}

}  // namespace
}  // namespace tessera
