// Two steps under way: what is planned before the results of the step before are known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr absl::Time kNow = absl::UnixEpoch();
constexpr auto kFirst = static_cast<SequenceId>(1);

TEST(StepsUnderWay, ATokenThatIsBeingDrawnIsNamedByItsRow) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(2)));
  scheduler.Add(MakeSequence(2, MakeRequest(3)));
  const BatchPlan first = scheduler.Schedule(kNow).plan;
  EXPECT_THAT(first.token_source, ElementsAre(-1, -1, -1, -1, -1));
  const BatchPlan second = scheduler.Schedule(kNow).plan;
  EXPECT_THAT(second.token_ids, ElementsAre(-1, -1));
  EXPECT_THAT(second.token_source, ElementsAre(0, 1));
  EXPECT_THAT(second.positions, ElementsAre(2, 3));
  EXPECT_THAT(second.sampling.position, ElementsAre(3, 4));
  EXPECT_EQ(scheduler.num_steps_under_way(), 2);
  EXPECT_EQ(scheduler.Apply(ResultOf(first, 7))[1].token, 7);
  // Known tokens are plain again, the others come from the step before.
  const BatchPlan third = scheduler.Schedule(kNow).plan;
  EXPECT_THAT(third.token_source, ElementsAre(0, 1));
  scheduler.Apply(ResultOf(second, 8));
  scheduler.Apply(ResultOf(third, 9));
  EXPECT_THAT(scheduler.Schedule(kNow).plan.token_ids, ElementsAre(9, 9));
}

TEST(StepsUnderWay, AnEndThatNobodyForesawCostsOneRow) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3), kNow, {9}));
  const BatchPlan first = scheduler.Schedule(kNow).plan;
  const BatchPlan second = scheduler.Schedule(kNow).plan;
  EXPECT_EQ(scheduler.Apply(ResultOf(first, 9))[0].finish->reason, FinishReason::kStop);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.stats().blocks_used, 1);  // the second step writes there
  EXPECT_THAT(scheduler.Apply(ResultOf(second, 5)), IsEmpty());
  EXPECT_EQ(scheduler.stats().blocks_used, 0);
  EXPECT_TRUE(scheduler.CheckIntegrity().ok());
}

TEST(StepsUnderWay, TheEndByLengthIsForeseen) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3, 1)));
  const BatchPlan first = scheduler.Schedule(kNow).plan;
  EXPECT_EQ(scheduler.Schedule(kNow).plan.num_sequences(), 0);
  EXPECT_EQ(scheduler.num_steps_under_way(), 1);
  EXPECT_EQ(scheduler.Apply(ResultOf(first))[0].finish->reason, FinishReason::kLength);
}

// Each of these has to know its last token; the sequence beside it does not wait for it.
class WaitsForItsToken : public testing::TestWithParam<void (*)(GenerateRequest*)> {};

TEST_P(WaitsForItsToken, Alone) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  auto request = MakeRequest(3);
  GetParam()(request.get());
  scheduler.Add(MakeSequence(1, request));
  scheduler.Add(MakeSequence(2, MakeRequest(3)));
  const BatchPlan first = scheduler.Schedule(kNow).plan;
  EXPECT_EQ(first.num_sequences(), 2);
  const BatchPlan second = scheduler.Schedule(kNow).plan;
  EXPECT_THAT(second.token_source, ElementsAre(1));
  scheduler.Apply(ResultOf(first, 7));
  const BatchPlan third = scheduler.Schedule(kNow).plan;
  EXPECT_THAT(third.token_ids, ElementsAre(7, -1));
  EXPECT_THAT(third.token_source, ElementsAre(-1, 0));
}

INSTANTIATE_TEST_SUITE_P(Reasons, WaitsForItsToken,
                         testing::Values(
                             [](GenerateRequest* r) {
                               r->sampling.bad_words = {{5, 6}};
                             },
                             [](GenerateRequest* r) {
                               r->reasoning = {.start_token_id = 10,
                                               .end_token_id = 2,
                                               .max_thinking_tokens = 3,
                                               .close_token_ids = {2}};
                             }));

TEST(StepsUnderWay, PenaltiesNeedNoToken) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  auto request = MakeRequest(3);
  request->sampling.repetition_penalty = 1.2F;
  scheduler.Add(MakeSequence(1, request));
  EXPECT_THAT(scheduler.Schedule(kNow).plan.sampling.penalty_reset, ElementsAre(1));
  const BatchPlan second = scheduler.Schedule(kNow).plan;
  EXPECT_THAT(second.token_source, ElementsAre(0));
  EXPECT_THAT(second.sampling.penalty_slot, ElementsAre(0));
  EXPECT_THAT(second.sampling.penalty_reset, ElementsAre(0));
  EXPECT_THAT(second.sampling.pen_tokens, IsEmpty());
}

TEST(StepsUnderWay, APreemptedSequenceKeepsTheTokenThatWasBeingDrawn) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 3;
  options.enable_prefix_cache = false;
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3)));
  scheduler.Add(MakeSequence(2, MakeRequest(3), kNow + absl::Seconds(1)));
  std::vector<BatchPlan> plans = {scheduler.Schedule(kNow).plan, scheduler.Schedule(kNow).plan};
  ScheduleResult next;
  for (int i = 0; next.preempted.empty(); ++i) {
    ASSERT_LT(i, 20);
    scheduler.Apply(ResultOf(plans[i], 20 + i));
    next = scheduler.Schedule(kNow);
    plans.push_back(next.plan);
  }
  EXPECT_THAT(next.preempted, ElementsAre(static_cast<SequenceId>(2)));
  const auto updates = scheduler.Apply(ResultOf(plans[plans.size() - 2], 33));
  ASSERT_EQ(updates.size(), 2);
  EXPECT_EQ(updates[1].token, 33);
  scheduler.Apply(ResultOf(plans.back()));
  scheduler.Finish(kFirst);
  const BatchPlan replay = scheduler.Schedule(kNow).plan;
  EXPECT_EQ(replay.token_ids.back(), 33);
  EXPECT_EQ(replay.positions.front(), 0);
  EXPECT_TRUE(scheduler.CheckIntegrity().ok());
}

}  // namespace
}  // namespace tessera
