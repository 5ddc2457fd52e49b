#include "engine/output/output_processor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/output/confidence.h"
#include "tests/engine/fake_executor.h"

namespace tessera {
namespace {

using testing::ElementsAre;

// What one choice shows when the model writes exactly `text`.
struct Shown {
  std::string text;
  std::string reasoning;
  std::vector<ToolCallDelta> tool_calls;  // joined
  size_t tool_call_deltas = 0;
  ChoiceFinish finish;
  size_t tokens = 0;  // consumed
};

class OutputProcessorTest : public testing::Test {
 protected:
  Shown Write(const std::string& text) {
    const std::vector<int32_t> ids = *NanoTokenizer()->Encode(text, {.parse_added_tokens = true});
    OutputProcessor processor(NanoTokenizer(), std::make_shared<const GenerateRequest>(request_),
                              0);
    Shown shown;
    for (size_t i = 0; i < ids.size() && !processor.finished(); ++i) {
      SequenceUpdate update{.token = ids[i], .row = 0};
      update.may_stop = static_cast<int32_t>(i) >= request_.stopping.min_tokens;
      if (i + 1 == ids.size()) update.finish = last_;
      const BatchResult result{.token = {ids[i]}, .logprob = {-1}, .rank = {1}};
      const std::optional<TokenDelta> delta = processor.Process(update, result);
      EXPECT_THAT(delta->token_ids, ElementsAre(ids[i]));
      ++shown.tokens;
      shown.text += delta->text;
      shown.reasoning += delta->reasoning;
      for (const ToolCallDelta& call : delta->tool_calls) Join(call, &shown);
      if (delta->finish.has_value()) shown.finish = *delta->finish;
    }
    EXPECT_TRUE(processor.finished());
    EXPECT_EQ(processor.usage().completion_tokens, static_cast<int32_t>(shown.tokens));
    return shown;
  }

  static void Join(const ToolCallDelta& call, Shown* shown) {
    ++shown->tool_call_deltas;
    if (call.index == static_cast<int32_t>(shown->tool_calls.size())) {
      shown->tool_calls.push_back(call);
      return;
    }
    EXPECT_EQ(call.id + call.name, "") << "only the first delta names a call";
    shown->tool_calls.at(call.index).arguments_fragment += call.arguments_fragment;
  }

  GenerateRequest MakeRequest() {
    GenerateRequest request;
    request.prompt_ids = {10, 11};
    request.reasoning.start_token_id = NanoTokenizer()->TokenId("<think>").value_or(-1);
    request.reasoning.end_token_id = NanoTokenizer()->TokenId("</think>").value_or(-1);
    return request;
  }

  GenerateRequest request_ = MakeRequest();
  TokenFinish last_{.reason = FinishReason::kLength};
};

TEST_F(OutputProcessorTest, PlainTextOfAnyScript) {
  const Shown shown = Write("Grüße 世界 🙂 e\u0301");
  EXPECT_EQ(shown.text, "Grüße 世界 🙂 é");  // the tokenizer composes characters
  EXPECT_EQ(shown.finish.reason, FinishReason::kLength);
}

TEST_F(OutputProcessorTest, StopTokenHasNoText) {
  const auto end = NanoTokenizer()->TokenId("<|im_end|>");
  ASSERT_TRUE(end.has_value());
  last_ = {.reason = FinishReason::kStop, .stop_token_id = *end};
  request_.output.skip_special_tokens = false;
  const Shown shown = Write("Hi<|im_end|>");
  EXPECT_EQ(shown.text, "Hi");
  EXPECT_EQ(shown.finish.stop_token_id, *end);
  request_.stopping.include_stop = true;
  EXPECT_EQ(Write("Hi<|im_end|>").text, "Hi<|im_end|>");
}

TEST_F(OutputProcessorTest, StopStringCutsAndWinsOverLength) {
  request_.stopping.stop = {"\n\n", "never"};
  const Shown shown = Write("one\ntwo\n\n");
  EXPECT_EQ(shown.text, "one\ntwo");
  EXPECT_EQ(shown.finish.reason, FinishReason::kStop);
  EXPECT_EQ(shown.finish.stop_string, "\n\n");
  EXPECT_FALSE(shown.finish.stop_token_id.has_value());
}

// Tokens of the same probability show which of them count.
TEST_F(OutputProcessorTest, ConfidenceIsOfTheAnswerAlone) {
  EXPECT_FALSE(Write("<think>\nhm\n</think>\n\nyes").finish.confidence.has_value());
  request_.output.confidence = true;
  const auto plain = Write("yes").finish.confidence;
  ASSERT_TRUE(plain.has_value());
  EXPECT_FLOAT_EQ(plain->mean, std::exp(-1.0F));
  EXPECT_FLOAT_EQ(plain->lowest, std::exp(-1.0F));
  EXPECT_EQ(plain->num_tokens, static_cast<int32_t>(NanoTokenizer()->Encode("yes", {})->size()));
  EXPECT_EQ(Write("</think>\n\nyes").finish.confidence->num_tokens, plain->num_tokens);
  EXPECT_FALSE(Write("</think>\n\n").finish.confidence.has_value()) << "there is no answer";
  last_ = {.reason = FinishReason::kStop, .stop_token_id = *NanoTokenizer()->TokenId("<|im_end|>")};
  EXPECT_EQ(Write("yes<|im_end|>").finish.confidence->num_tokens, plain->num_tokens);
}

TEST(ConfidenceMeterTest, MeanAndLowest) {
  ConfidenceMeter meter;
  EXPECT_FALSE(meter.result().has_value());
  meter.Add({.logprob = std::log(0.1F), .text = " \n"});
  meter.Add({.logprob = std::log(0.9F), .text = "a"});
  meter.Add({.logprob = std::log(0.2F), .text = "b", .is_answer = false});
  meter.Add({.logprob = std::log(0.5F), .text = " "});
  ASSERT_TRUE(meter.result().has_value());
  EXPECT_FLOAT_EQ(meter.result()->mean, 0.7F);
  EXPECT_FLOAT_EQ(meter.result()->lowest, 0.5F);
  EXPECT_EQ(meter.result()->num_tokens, 2);
}

TEST_F(OutputProcessorTest, StopStringWaitsForMinTokens) {
  request_.stopping.stop = {"1"};
  request_.stopping.min_tokens = 3;
  const Shown shown = Write("1112131");
  EXPECT_EQ(shown.text, "1112");
}

TEST_F(OutputProcessorTest, UnfinishedStopIsShownAtTheEnd) {
  request_.stopping.stop = {"<end>"};
  EXPECT_EQ(Write("abc <en").text, "abc <en");
}

TEST_F(OutputProcessorTest, ReasoningHasItsOwnField) {
  request_.reasoning.parse = true;
  const Shown shown = Write("<think>\n1 + 1\n</think>\n\n2");
  EXPECT_EQ(shown.reasoning, "1 + 1");
  EXPECT_EQ(shown.text, "2");
}

TEST_F(OutputProcessorTest, ReasoningStaysInTheTextUnlessParsed) {
  const std::string text = "<think>\n1 + 1\n</think>\n\n2";
  EXPECT_EQ(Write(text).text, text);
}

TEST_F(OutputProcessorTest, ClosedStartIsContent) {
  request_.reasoning.parse = true;
  request_.reasoning.starts_closed = true;
  const Shown shown = Write("2");
  EXPECT_EQ(shown.reasoning, "");
  EXPECT_EQ(shown.text, "2");
}

TEST_F(OutputProcessorTest, StopStringsSpeakAboutTheAnswer) {
  request_.reasoning.parse = true;
  request_.stopping.stop = {"+ 1", "\n\n"};
  const std::string text = "<think>\n1 + 1\n\n2\n</think>\n\n2 + 1 = 3";
  Shown shown = Write(text);
  EXPECT_EQ(shown.reasoning, "1 + 1\n\n2");
  EXPECT_EQ(shown.text, "2 ");
  EXPECT_EQ(shown.finish.stop_string, "+ 1");

  request_.stopping.stop_in_reasoning = true;
  shown = Write(text);
  EXPECT_EQ(shown.reasoning, "1 ");
  EXPECT_EQ(shown.text, "");
  request_.stopping.stop_in_reasoning = false;
  request_.reasoning.parse = false;
  EXPECT_EQ(Write(text).text, "<think>\n1 ") << "all of the text is the answer";
}

TEST_F(OutputProcessorTest, StopStringsSeeToolCallsAsTheyAreTyped) {
  request_.output.tool_call_format = ToolCallFormat::kHermes;
  request_.stopping.stop = {"</tool_call>"};
  const Shown shown =
      Write("<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>\nand more");
  ASSERT_EQ(shown.tool_calls.size(), 1U);
  EXPECT_EQ(shown.text, "");
  EXPECT_EQ(shown.finish.stop_string, "</tool_call>");
  EXPECT_EQ(shown.finish.reason, FinishReason::kToolCalls);
}

TEST_F(OutputProcessorTest, ACallInOpenReasoningEndsIt) {
  request_.reasoning.parse = true;
  request_.output.tool_call_format = ToolCallFormat::kHermes;
  const std::string call =
      "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";
  last_ = {.reason = FinishReason::kStop};
  Shown shown = Write("<think>\nplan\n" + call);
  EXPECT_EQ(shown.reasoning, "plan");
  ASSERT_EQ(shown.tool_calls.size(), 1U);
  EXPECT_EQ(shown.finish.reason, FinishReason::kToolCalls);
  shown = Write("<think>\nplan\n" + call + "\n</think>\n\nanswer");
  EXPECT_EQ(shown.reasoning, "plan\n" + call);
  EXPECT_EQ(shown.text, "answer");
  EXPECT_TRUE(shown.tool_calls.empty());
}

TEST_F(OutputProcessorTest, ToolCallsEndTheChoice) {
  request_.output.tool_call_format = ToolCallFormat::kHermes;
  last_ = {.reason = FinishReason::kStop};
  const Shown shown = Write(
      "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>");
  EXPECT_EQ(shown.text, "Let me see.");
  ASSERT_EQ(shown.tool_calls.size(), 1U);
  EXPECT_EQ(shown.tool_calls[0].name, "add");
  EXPECT_EQ(shown.tool_calls[0].arguments_fragment, "{\"a\": 1}");
  EXPECT_THAT(shown.tool_calls[0].id, testing::MatchesRegex("call_[0-9a-f]{24}"));
  EXPECT_GT(shown.tool_call_deltas, 2U) << "arguments come as they are typed";
  EXPECT_EQ(shown.finish.reason, FinishReason::kToolCalls);
}

TEST_F(OutputProcessorTest, ToolCallsThatTheLengthCutsOffStayCalls) {
  request_.output.tool_call_format = ToolCallFormat::kHermes;
  const Shown shown = Write("<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"some te");
  EXPECT_EQ(shown.text, "");
  ASSERT_EQ(shown.tool_calls.size(), 1U);
  EXPECT_EQ(shown.tool_calls[0].arguments_fragment, "{\"a\": \"some te");
  EXPECT_EQ(shown.finish.reason, FinishReason::kLength);
}

TEST_F(OutputProcessorTest, TruncatedCharacterBecomesAReplacementAtTheEnd) {
  std::vector<int32_t> ids = *NanoTokenizer()->Encode("🙂", {});
  if (ids.size() < 2) GTEST_SKIP() << "one token";
  OutputProcessor processor(NanoTokenizer(), std::make_shared<const GenerateRequest>(request_), 0);
  const BatchResult result{.token = {ids[0]}, .logprob = {-1}, .rank = {1}};
  const auto delta = processor.Process(
      {.token = ids[0], .row = 0, .finish = TokenFinish{.reason = FinishReason::kLength}}, result);
  EXPECT_EQ(delta->text, "\xEF\xBF\xBD");
}

TEST(LogprobsOfRow, ReadsItsRowOnly) {
  const BatchResult result{.token = {5, 6},
                           .logprob = {-0.5F, -0.6F},
                           .rank = {1, 2},
                           .num_top = 2,
                           .top_tokens = {5, 7, 8, 6},
                           .top_logprobs = {-0.5F, -0.7F, -0.1F, -0.6F}};
  const TokenLogprobs row = LogprobsOfRow(result, 1, 1);
  EXPECT_EQ(row.token, 6);
  EXPECT_EQ(row.rank, 2);
  ASSERT_EQ(row.top.size(), 1U);
  EXPECT_EQ(row.top[0].token, 8);
  EXPECT_EQ(LogprobsOfRow(result, 0, 5).top.size(), 2U);
}

}  // namespace
}  // namespace tessera
