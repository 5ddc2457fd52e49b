#include "server/thinking_choice.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace tessera {
namespace {

using Choice = v1::ThinkingChoice;
using Turns = std::vector<std::pair<std::string, std::string>>;  // role, content

v1::ThinkingChoice Choose(const Turns& turns) {
  v1::ChatPrompt chat;
  for (const auto& [role, content] : turns) {
    v1::ChatMessage* message = chat.add_messages();
    message->set_role(role);
    message->set_content(content);
  }
  return ChooseThinking(chat);
}

TEST(ThinkingChoiceTest, WhatTheQuestionAsksFor) {
  const std::vector<std::pair<std::string, Choice::Reason>> cases = {
      {"Hello!", Choice::REASON_PLAIN},
      {"", Choice::REASON_PLAIN},
      {"Extract name and age as JSON: Ben, 57, lives in Oslo.", Choice::REASON_PLAIN},
      {"Sort these numbers: 9 8 98 22", Choice::REASON_PLAIN},
      {"My number is 555-1234 and it is 2024-05-06",
       Choice::REASON_NUMBERS},  // it errs to thinking
      {"What is 44 + 9809?", Choice::REASON_NUMBERS},
      {"228减49等于多少？", Choice::REASON_NUMBERS},
      {"99-12=", Choice::REASON_NUMBERS},
      {"David has 94 balls and loses 73. How many balls are left?", Choice::REASON_NUMBERS},
      {"How many legs has a dog?", Choice::REASON_REASONS},
      {"Write a function that reverses a list", Choice::REASON_CODE},
      {"```\nx = 1\n```", Choice::REASON_CODE},
      {"Why is the sky blue?", Choice::REASON_REASONS},
      {"why?", Choice::REASON_REASONS},
      {"Prove that there are infinitely many primes.", Choice::REASON_REASONS},
      {"为什么天是蓝的？", Choice::REASON_REASONS},
      {"Show me the way to whyalla", Choice::REASON_PLAIN},  // words stand alone
      {std::string(1201, 'a'), Choice::REASON_LENGTH},
      {std::string(100'000, 'a') + " why?", Choice::REASON_REASONS},
  };
  for (const auto& [question, reason] : cases) {
    const v1::ThinkingChoice choice = Choose({{"user", question}});
    EXPECT_EQ(choice.reason(), reason) << question.substr(0, 100);
    EXPECT_EQ(choice.thinks(), reason != Choice::REASON_PLAIN);
  }
}

TEST(ThinkingChoiceTest, TheStateOfTheConversation) {
  const Turns sum = {{"system", "Why?"}, {"user", "1 + 2?"}};
  EXPECT_EQ(Choose({sum[0]}).reason(), Choice::REASON_PLAIN);
  Turns turns = sum;
  turns.push_back({"tool", "3"});
  EXPECT_EQ(Choose(turns).reason(), Choice::REASON_TOOL_RESULT);
  EXPECT_FALSE(Choose(turns).thinks());
  turns = sum;
  turns.push_back({"assistant", "4"});
  turns.push_back({"user", "Are you sure?"});
  EXPECT_EQ(Choose(turns).reason(), Choice::REASON_DOUBT);
  EXPECT_TRUE(Choose(turns).thinks());
  EXPECT_EQ(Choose({{"user", "Are you sure?"}}).reason(), Choice::REASON_PLAIN);
  turns.back().second = "Thanks";
  EXPECT_EQ(Choose(turns).reason(), Choice::REASON_PLAIN);
}

TEST(ThinkingChoiceTest, TheLatestSwitchDecides) {
  Turns turns = {{"user", "1 + 2? /no_think"}};
  EXPECT_EQ(Choose(turns).reason(), Choice::REASON_SWITCH);
  EXPECT_FALSE(Choose(turns).thinks());
  for (int turn = 0; turn < 50; ++turn) {
    const bool thinks = turn % 3 == 0;
    turns.push_back({"assistant", "ok /think"});  // only users switch
    turns.push_back({"user", thinks ? "Hi /no_think /think" : "Why? /think /no_think"});
    EXPECT_EQ(Choose(turns).thinks(), thinks);
    turns.push_back({"assistant", "ok"});
    turns.push_back({"user", "What is 1 + 1?"});
    EXPECT_EQ(Choose(turns).thinks(), thinks) << "it stays until the next one";
  }
}

TEST(ThinkingChoiceTest, OnlyAutoLeavesItToUs) {
  v1::GenerateRequest request;
  request.mutable_chat()->add_messages()->set_role("user");
  EXPECT_FALSE(ChosenThinking(request).has_value());
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_AUTO);
  EXPECT_TRUE(ChosenThinking(request).has_value());
  request.set_text("a");
  EXPECT_FALSE(ChosenThinking(request).has_value());
  const v1::ChatPrompt chat;
  EXPECT_EQ(EnableThinking(v1::ReasoningOptions::MODE_THINK, chat), true);
  EXPECT_EQ(EnableThinking(v1::ReasoningOptions::MODE_NO_THINK, chat), false);
  EXPECT_EQ(EnableThinking(v1::ReasoningOptions::MODE_AUTO, chat), false);
  EXPECT_EQ(EnableThinking(v1::ReasoningOptions::MODE_UNSPECIFIED, chat), std::nullopt);
}

}  // namespace
}  // namespace tessera
