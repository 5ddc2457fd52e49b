#include "engine/scheduler/thinking_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace tessera {
namespace {

using testing::ElementsAre;

constexpr int32_t kStart = 1;
constexpr int32_t kEnd = 2;

ReasoningParams Params(std::optional<int32_t> budget) {
  ReasoningParams params{.start_token_id = kStart, .end_token_id = kEnd};
  params.max_thinking_tokens = budget;
  params.close_token_ids = {7, kEnd, 8};
  return params;
}

// Draws `free` tokens where nothing is forced and returns the whole output.
std::vector<int32_t> Generate(ThinkingBudget* budget, const std::vector<int32_t>& free) {
  std::vector<int32_t> output;
  for (size_t next = 0; next < free.size() || budget->ForcedToken() >= 0;) {
    const int32_t forced = budget->ForcedToken();
    output.push_back(forced >= 0 ? forced : free[next++]);
    budget->Push(output.back());
  }
  return output;
}

TEST(ThinkingBudget, CountsWithoutALimit) {
  const ReasoningParams params = Params(std::nullopt);
  ThinkingBudget budget(params, {});
  EXPECT_THAT(Generate(&budget, {kStart, 5, 5, 5, kEnd, 6, 6}),
              ElementsAre(kStart, 5, 5, 5, kEnd, 6, 6));
  EXPECT_EQ(budget.reasoning_tokens(), 3);
  EXPECT_FALSE(budget.enforced());
}

TEST(ThinkingBudget, ForcesTheCloseSequenceOnce) {
  const ReasoningParams params = Params(2);
  ThinkingBudget budget(params, {});
  EXPECT_THAT(Generate(&budget, {kStart, 5, 5, 6, 6}), ElementsAre(kStart, 5, 5, 7, kEnd, 8, 6, 6));
  EXPECT_EQ(budget.reasoning_tokens(), 3);  // 5, 5 and the forced 7
  EXPECT_TRUE(budget.enforced());
}

TEST(ThinkingBudget, AnEarlyEndNeedsNoForce) {
  const ReasoningParams params = Params(2);
  ThinkingBudget budget(params, {});
  EXPECT_THAT(Generate(&budget, {kStart, 5, kEnd, 6, 6, 6}), ElementsAre(kStart, 5, kEnd, 6, 6, 6));
  EXPECT_FALSE(budget.enforced());
}

TEST(ThinkingBudget, CountsFromThePromptsOpenTag) {
  const ReasoningParams params = Params(3);
  const std::vector<int32_t> prompt = {kStart, 5, kEnd, 6, kStart, 5, 5};
  ThinkingBudget budget(params, prompt);
  EXPECT_THAT(Generate(&budget, {5, 6}), ElementsAre(5, 7, kEnd, 8, 6));
  EXPECT_EQ(budget.reasoning_tokens(), 2);
}

TEST(ThinkingBudget, ClosedPromptThinksNot) {
  const ReasoningParams params = Params(0);
  const std::vector<int32_t> prompt = {kStart, kEnd};
  ThinkingBudget budget(params, prompt);
  EXPECT_EQ(budget.ForcedToken(), -1);
}

TEST(ThinkingBudget, ZeroBudgetClosesAtOnce) {
  const ReasoningParams params = Params(0);
  const std::vector<int32_t> prompt = {kStart};
  ThinkingBudget budget(params, prompt);
  EXPECT_THAT(Generate(&budget, {6}), ElementsAre(7, kEnd, 8, 6));
}

TEST(ThinkingBudget, ASecondSectionHasItsOwnBudget) {
  const ReasoningParams params = Params(1);
  ThinkingBudget budget(params, {});
  EXPECT_THAT(Generate(&budget, {kStart, 5, 6, kStart, 5, 6}),
              ElementsAre(kStart, 5, 7, kEnd, 8, 6, kStart, 5, 7, kEnd, 8, 6));
}

TEST(ThinkingBudget, CloseSequenceWithoutTheTagStillCloses) {
  ReasoningParams params = Params(1);
  params.close_token_ids = {7};
  ThinkingBudget budget(params, {});
  EXPECT_THAT(Generate(&budget, {kStart, 5, 6, 6}), ElementsAre(kStart, 5, 7, 6, 6));
}

// Every sequence of `unknown` tokens, and whether one of them makes the budget force the next.
bool ForcesAfterSome(const ThinkingBudget& budget, int32_t unknown) {
  if (budget.ForcedToken() >= 0 || unknown == 0) return budget.ForcedToken() >= 0;
  for (int32_t token : {kStart, kEnd, 5}) {
    ThinkingBudget next = budget;
    next.Push(token);
    if (ForcesAfterSome(next, unknown - 1)) return true;
  }
  return false;
}

TEST(ThinkingBudget, ForeseesWhetherItMayForce) {
  for (int32_t limit = 0; limit < 5; ++limit) {
    const ReasoningParams params = Params(limit);
    for (int32_t history = 0; history < 243; ++history) {
      ThinkingBudget budget(params, {});
      for (int32_t i = 0, rest = history; i < 5; ++i, rest /= 3) {
        const int32_t forced = budget.ForcedToken();
        budget.Push(forced >= 0 ? forced : std::array{kStart, kEnd, 5}[rest % 3]);
      }
      for (int32_t unknown = 1; unknown < 3; ++unknown) {
        if (ForcesAfterSome(budget, unknown)) {
          EXPECT_TRUE(budget.MayForceAfter(unknown)) << limit << " " << history << " " << unknown;
        }
      }
    }
  }
  const ReasoningParams roomy = Params(10);
  EXPECT_FALSE(ThinkingBudget(roomy, {}).MayForceAfter(2));
}

TEST(ThinkingBudget, DoesNothingWithoutTagsOrWhenClosed) {
  ReasoningParams no_tags = Params(0);
  no_tags.start_token_id = -1;
  ThinkingBudget without(no_tags, {});
  without.Push(kStart);
  EXPECT_EQ(without.ForcedToken(), -1);
  ReasoningParams closed = Params(0);
  closed.starts_closed = true;
  ThinkingBudget started_closed(closed, {});
  started_closed.Push(kStart);
  started_closed.Push(5);
  EXPECT_EQ(started_closed.ForcedToken(), -1);
  EXPECT_EQ(started_closed.reasoning_tokens(), 0);
}

}  // namespace
}  // namespace tessera
