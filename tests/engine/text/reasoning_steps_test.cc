#include "engine/text/reasoning_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ReasoningStepsTest, ParagraphsElseLines) {
  EXPECT_THAT(SplitReasoningSteps(""), IsEmpty());
  EXPECT_THAT(SplitReasoningSteps(" \n\n\t"), IsEmpty());
  EXPECT_THAT(SplitReasoningSteps("one"), ElementsAre("one"));
  EXPECT_THAT(SplitReasoningSteps("one\ntwo \n three"), ElementsAre("one", "two", "three"));
  EXPECT_THAT(SplitReasoningSteps("one\ntwo\n \n\nthree\n"), ElementsAre("one\ntwo", "three"));
  EXPECT_THAT(SplitReasoningSteps("a\r\n\r\nb"), ElementsAre("a", "b"));
}

TEST(ReasoningStepsTest, WhatBelongsTogetherStaysTogether) {
  EXPECT_THAT(SplitReasoningSteps("Try:\n\n```\na\n\nb\n```\n\nIt works."),
              ElementsAre("Try:\n\n```\na\n\nb\n```", "It works."));
  EXPECT_THAT(SplitReasoningSteps("x:\n```\na\nb\n```\ny"), ElementsAre("x:\n```\na\nb\n```", "y"));
  EXPECT_THAT(SplitReasoningSteps("```\nnever closed\n\nend"),
              ElementsAre("```\nnever closed\n\nend"));
}

}  // namespace
}  // namespace tessera
