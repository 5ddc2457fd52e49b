#include "engine/scheduler/token_counts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using testing::ElementsAre;

TEST(TokenCounts, KeepsDistinctTokensInOrderOfOccurrence) {
  TokenCounts counts;
  const std::vector<int32_t> prompt = {5, 3, 5};
  counts.AddPrompt(prompt);
  counts.AddOutput(3);
  counts.AddOutput(8);
  counts.AddOutput(3);
  EXPECT_THAT(counts.tokens(), ElementsAre(5, 3, 8));
  EXPECT_THAT(counts.counts(), ElementsAre(0, 2, 1));
}

}  // namespace
}  // namespace tessera
