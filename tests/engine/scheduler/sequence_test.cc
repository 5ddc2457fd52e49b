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
