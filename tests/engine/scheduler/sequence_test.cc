#include "engine/scheduler/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

using testing::ElementsAre;

TEST(Sequence, StopsAtMaxTokens) {
  const auto sequence = MakeSequence(1, MakeRequest(3, 2));
  TokenFinish finish;
  EXPECT_FALSE(sequence->Append(5, &finish));
  EXPECT_TRUE(sequence->Append(5, &finish));
  EXPECT_EQ(finish.reason, FinishReason::kLength);
  EXPECT_EQ(sequence->num_output(), 2);
}

TEST(Sequence, WithoutMaxTokensStopsAtTheContextLimit) {
  auto request = MakeRequest(3);
  request->stopping.max_tokens.reset();
  Sequence sequence({.request = request}, /*max_model_len=*/5);
  TokenFinish finish;
  EXPECT_FALSE(sequence.Append(5, &finish));
  EXPECT_TRUE(sequence.Append(5, &finish));
}

TEST(Sequence, ExtremeMaxTokensDoesNotOverflow) {
  auto request = MakeRequest(3, std::numeric_limits<int32_t>::max());
  Sequence sequence({.request = request}, /*max_model_len=*/4);
  TokenFinish finish;
  EXPECT_TRUE(sequence.Append(5, &finish));
}

TEST(Sequence, StopIdCountsOnlyAfterMinTokens) {
  auto request = MakeRequest(3);
  request->stopping.min_tokens = 1;
  const auto sequence = MakeSequence(1, request, absl::UnixEpoch(), {7});
  TokenFinish finish;
  EXPECT_TRUE(sequence->in_min_tokens());
  EXPECT_FALSE(sequence->Append(7, &finish));
  EXPECT_FALSE(sequence->in_min_tokens());
  EXPECT_TRUE(sequence->Append(7, &finish));
  EXPECT_EQ(finish.stop_token_id, 7);
}

// Where reasoning is split off, min_tokens are tokens of the answer.
TEST(Sequence, ReasoningCountsForNothing) {
  constexpr int32_t kOpen = 1;
  constexpr int32_t kClose = 2;
  constexpr int32_t kStop = 7;
  auto request = MakeRequest(3, 20);
  request->stopping.min_tokens = 2;
  request->reasoning = {.parse = true, .start_token_id = kOpen, .end_token_id = kClose};
  const auto sequence = MakeSequence(1, request, absl::UnixEpoch(), {kStop});
  TokenFinish finish;
  for (const int32_t token : {kOpen, 30, 31, 32, kClose}) {
    EXPECT_FALSE(sequence->may_stop());
    EXPECT_FALSE(sequence->Append(token, &finish));
  }
  EXPECT_TRUE(sequence->in_min_tokens());
  EXPECT_FALSE(sequence->Append(kStop, &finish));
  sequence->num_drawing = 1;  // perhaps an answer's token, perhaps not
  EXPECT_FALSE(sequence->CanBePlanned());
  sequence->num_drawing = 0;
  EXPECT_FALSE(sequence->Append(33, &finish));
  EXPECT_FALSE(sequence->in_min_tokens());
  EXPECT_TRUE(sequence->may_stop());
  EXPECT_TRUE(sequence->Append(kStop, &finish));

  request = std::make_shared<GenerateRequest>(*request);
  request->stopping.stop_in_reasoning = true;
  const auto all = MakeSequence(2, request, absl::UnixEpoch(), {kStop});
  EXPECT_FALSE(all->Append(kOpen, &finish));
  EXPECT_FALSE(all->Append(30, &finish));
  EXPECT_TRUE(all->Append(kStop, &finish));
}

TEST(Sequence, CountsTokensOnlyForPenalties) {
  TokenFinish finish;
  const auto plain = MakeSequence(1, MakeRequest(2));
  plain->Append(10, &finish);
  EXPECT_TRUE(plain->token_counts().tokens().empty());

  auto presence = MakeRequest(2);  // 10, 11
  presence->sampling.presence_penalty = 1.0F;
  const auto output_only = MakeSequence(1, presence);
  output_only->Append(10, &finish);
  EXPECT_THAT(output_only->token_counts().tokens(), ElementsAre(10));

  auto repetition = MakeRequest(2);
  repetition->sampling.repetition_penalty = 1.1F;
  const auto both = MakeSequence(1, repetition);
  both->Append(11, &finish);
  both->Append(11, &finish);
  both->Append(4, &finish);
  EXPECT_THAT(both->token_counts().tokens(), ElementsAre(10, 11, 4));
  EXPECT_THAT(both->token_counts().counts(), ElementsAre(0, 2, 1));
}

}  // namespace
}  // namespace tessera
