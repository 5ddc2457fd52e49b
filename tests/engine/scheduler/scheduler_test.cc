#include "engine/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr absl::Time kStart = absl::UnixEpoch();

SequenceId Id(uint64_t id) { return static_cast<SequenceId>(id); }

// Schedules and applies one step; every row draws `token`.
std::vector<SequenceUpdate> RunStep(Scheduler* scheduler, int32_t token = 9) {
  return scheduler->Apply(ResultOf(scheduler->Schedule(kStart).plan, token));
}

TEST(Scheduler, IdleWithoutWork) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  EXPECT_TRUE(scheduler.idle());
  const BatchPlan plan = scheduler.Schedule(kStart).plan;
  EXPECT_EQ(plan.num_sequences(), 0);
  EXPECT_THAT(plan.cu_seqlens, ElementsAre(0));
  EXPECT_THAT(plan.sampling.pen_offsets, ElementsAre(0));
  EXPECT_THAT(plan.sampling.adj_offsets, ElementsAre(0));
  EXPECT_EQ(scheduler.num_steps_under_way(), 0);
}

TEST(Scheduler, LonePromptTakesTheWholeBudget) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(20)));
  const ScheduleResult first = scheduler.Schedule(kStart);
  EXPECT_THAT(first.started, ElementsAre(Id(1)));
  EXPECT_THAT(ChunkLengths(first.plan), ElementsAre(16));
  EXPECT_EQ(first.plan.num_logits(), 0);
  const auto updates = scheduler.Apply(ResultOf(first.plan));
  ASSERT_EQ(updates.size(), 1U);
  EXPECT_EQ(updates[0].token, -1);
  const ScheduleResult second = scheduler.Schedule(kStart);
  EXPECT_THAT(second.started, IsEmpty());
  EXPECT_THAT(ChunkLengths(second.plan), ElementsAre(4));
  EXPECT_THAT(second.plan.logits_rows, ElementsAre(3));
  EXPECT_EQ(scheduler.Apply(ResultOf(second.plan))[0].token, 9);
}

TEST(Scheduler, DecodesComeFirstAndPromptsAreChunked) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3)));
  RunStep(&scheduler);
  scheduler.Add(MakeSequence(2, MakeRequest(30)));
  scheduler.Add(MakeSequence(3, MakeRequest(30)));
  const ScheduleResult result = scheduler.Schedule(kStart);
  EXPECT_THAT(ChunkLengths(result.plan), ElementsAre(1, 8, 7));
  EXPECT_EQ(result.decode_tokens, 1);
  EXPECT_EQ(result.prefill_tokens, 15);
}

TEST(Scheduler, EveryRunningPromptGetsAShareOfEveryStep) {
  SchedulerOptions options = SmallOptions();
  options.max_prefill_chunk = 16;
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(15)));
  scheduler.Add(MakeSequence(2, MakeRequest(100)));
  RunStep(&scheduler);
  scheduler.Add(MakeSequence(3, MakeRequest(100)));
  RunStep(&scheduler);  // 1 decodes, 2 prefills, 3 finds no budget
  EXPECT_EQ(scheduler.stats().num_running, 2);
  scheduler.Finish(Id(1));
  const ScheduleResult result = scheduler.Schedule(kStart);
  EXPECT_THAT(ChunkLengths(result.plan), ElementsAre(16));
}

TEST(Scheduler, ChunksAreShortWhereTheyHoldUpOthers) {
  SchedulerOptions options = SmallOptions();
  options.max_prefill_chunk = 200;
  options.max_num_batched_tokens = 300;
  options.num_blocks = 1000;
  options.max_model_len = 4000;
  options.enable_prefix_cache = false;
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(2000)));
  RunStep(&scheduler);
  scheduler.ObserveApplied(absl::Milliseconds(300));  // a millisecond per token
  const BatchPlan alone = scheduler.Schedule(kStart).plan;
  EXPECT_THAT(ChunkLengths(alone), ElementsAre(300));
  scheduler.Apply(ResultOf(alone));
  scheduler.Add(MakeSequence(2, MakeRequest(10)));
  const BatchPlan together = scheduler.Schedule(kStart).plan;
  EXPECT_THAT(ChunkLengths(together), ElementsAre(PrefillPace::kLeastChunk, 10));
  scheduler.Apply(ResultOf(together));
  // Another one may come soon.
  scheduler.Finish(Id(2));
  const BatchPlan soon = scheduler.Schedule(kStart + absl::Milliseconds(900)).plan;
  EXPECT_THAT(ChunkLengths(soon), ElementsAre(PrefillPace::kLeastChunk));
  scheduler.Apply(ResultOf(soon));
  EXPECT_THAT(ChunkLengths(scheduler.Schedule(kStart + absl::Seconds(2)).plan), ElementsAre(300));
}

TEST(Scheduler, SequencesAboveTheLimitWait) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  for (uint64_t id = 1; id <= 6; ++id) scheduler.Add(MakeSequence(id, MakeRequest(2)));
  RunStep(&scheduler);
  EXPECT_EQ(scheduler.stats().num_running, 4);
  EXPECT_EQ(scheduler.stats().num_waiting, 2);
}

TEST(Scheduler, PriorityGoesBeforeArrival) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 1;
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(2)));
  auto urgent = MakeRequest(2);
  urgent->priority = -1;
  scheduler.Add(MakeSequence(2, urgent, kStart + absl::Seconds(1)));
  EXPECT_THAT(scheduler.Schedule(kStart + absl::Seconds(1)).started, ElementsAre(Id(2)));
}

TEST(Scheduler, WaitingOutweighsPriority) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 1;
  options.ageing = absl::Seconds(10);
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(2)));
  auto urgent = MakeRequest(2);
  urgent->priority = -1;
  scheduler.Add(MakeSequence(2, urgent, kStart + absl::Seconds(11)));
  EXPECT_THAT(scheduler.Schedule(kStart + absl::Seconds(11)).started, ElementsAre(Id(1)));
}

TEST(Scheduler, NobodyOvertakesARequestThatWaitsForBlocks) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 10;
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(16)));
  RunStep(&scheduler);
  auto large = MakeRequest(32);
  large->prompt_ids[0] = 1;
  scheduler.Add(MakeSequence(2, large));
  auto small = MakeRequest(2);
  small->prompt_ids[0] = 2;
  scheduler.Add(MakeSequence(3, small));
  EXPECT_THAT(scheduler.Schedule(kStart).started, IsEmpty());
}

TEST(Scheduler, PreemptsTheLastInServiceOrderAndReplaysIt) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 5;
  options.enable_prefix_cache = false;
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(7, 13)));
  scheduler.Add(MakeSequence(2, MakeRequest(7, 13)));
  std::vector<SequenceId> preempted;
  int32_t received[3] = {};
  for (int i = 0; i < 60 && !scheduler.idle(); ++i) {
    const ScheduleResult result = scheduler.Schedule(kStart);
    preempted.insert(preempted.end(), result.preempted.begin(), result.preempted.end());
    for (const SequenceUpdate& update : scheduler.Apply(ResultOf(result.plan))) {
      if (update.token >= 0) ++received[static_cast<int>(update.id)];
    }
    ASSERT_TRUE(scheduler.CheckIntegrity().ok());
  }
  EXPECT_TRUE(scheduler.idle());
  EXPECT_FALSE(preempted.empty());
  EXPECT_THAT(preempted, testing::Each(Id(2)));
  EXPECT_EQ(received[1], 13);  // either fits alone, not both
  EXPECT_EQ(received[2], 13);
}

TEST(Scheduler, CancelWhileWaitingRunningAndInFlight) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(5)));
  scheduler.Finish(Id(1));
  EXPECT_TRUE(scheduler.idle());

  scheduler.Add(MakeSequence(2, MakeRequest(5)));
  RunStep(&scheduler);
  EXPECT_EQ(scheduler.stats().blocks_used, 2);
  scheduler.Finish(Id(2));
  EXPECT_EQ(scheduler.stats().blocks_used, 0);

  scheduler.Add(MakeSequence(3, MakeRequest(5)));
  const ScheduleResult result = scheduler.Schedule(kStart);
  scheduler.Finish(Id(3));
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.stats().blocks_used, 2);  // the step in flight writes to them
  EXPECT_THAT(scheduler.Apply(ResultOf(result.plan)), IsEmpty());
  EXPECT_EQ(scheduler.stats().blocks_used, 0);
  scheduler.Finish(Id(3));
  EXPECT_TRUE(scheduler.CheckIntegrity().ok());
}

TEST(Scheduler, DeadlineDropsBeforeAnythingIsSpent) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  auto request = MakeRequest(5);
  request->deadline = kStart + absl::Seconds(1);
  scheduler.Add(MakeSequence(1, request));
  const ScheduleResult result = scheduler.Schedule(kStart + absl::Seconds(1));
  EXPECT_THAT(result.expired, ElementsAre(Id(1)));
  EXPECT_EQ(result.plan.num_sequences(), 0);
  EXPECT_TRUE(scheduler.idle());
}

TEST(Scheduler, DeadlineEndsARunningSequence) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  auto request = MakeRequest(5);
  request->deadline = kStart + absl::Seconds(1);
  scheduler.Add(MakeSequence(1, request));
  RunStep(&scheduler);
  EXPECT_THAT(scheduler.Schedule(kStart + absl::Seconds(2)).expired, ElementsAre(Id(1)));
  EXPECT_EQ(scheduler.stats().blocks_used, 0);
}

TEST(Scheduler, BatchWaitHoldsAnIdleEngineOnly) {
  SchedulerOptions options = SmallOptions();
  options.batch_wait = absl::Milliseconds(50);
  Scheduler scheduler(options, BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3)));
  const ScheduleResult early = scheduler.Schedule(kStart + absl::Milliseconds(10));
  EXPECT_EQ(early.plan.num_sequences(), 0);
  EXPECT_EQ(early.wake_at, kStart + absl::Milliseconds(50));
  const ScheduleResult late = scheduler.Schedule(kStart + absl::Milliseconds(50));
  EXPECT_EQ(late.plan.num_sequences(), 1);
  scheduler.Apply(ResultOf(late.plan));
  scheduler.Add(MakeSequence(2, MakeRequest(3), kStart + absl::Milliseconds(50)));
  EXPECT_EQ(scheduler.Schedule(kStart + absl::Milliseconds(50)).plan.num_sequences(), 2);
}

TEST(Scheduler, BatchWaitEndsWhenTheBatchIsFull) {
  SchedulerOptions options = SmallOptions();
  options.batch_wait = absl::Milliseconds(50);
  Scheduler scheduler(options, BlockHash{});
  for (uint64_t id = 1; id <= 4; ++id) scheduler.Add(MakeSequence(id, MakeRequest(3)));
  EXPECT_EQ(scheduler.Schedule(kStart).plan.num_sequences(), 4);
}

TEST(Scheduler, SecondRequestReadsThePrefixOfTheFirst) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(12)));
  RunStep(&scheduler);
  scheduler.Add(MakeSequence(2, MakeRequest(12)));
  const ScheduleResult result = scheduler.Schedule(kStart);
  EXPECT_THAT(ChunkLengths(result.plan), ElementsAre(1, 4));
  EXPECT_EQ(result.plan.block_tables[0], result.plan.block_tables[result.plan.max_blocks]);
  const auto updates = scheduler.Apply(ResultOf(result.plan));
  EXPECT_EQ(updates[0].num_cached, 0);
  EXPECT_EQ(updates[1].num_cached, 8);
  EXPECT_EQ(scheduler.stats().prefix_cache_queries, 24);
  EXPECT_EQ(scheduler.stats().prefix_cache_hits, 8);
}

TEST(Scheduler, RequestsMayRefuseTheCache) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(12)));
  RunStep(&scheduler);
  auto refuses = MakeRequest(12);
  refuses->use_prefix_cache = false;
  scheduler.Add(MakeSequence(2, refuses));
  EXPECT_THAT(ChunkLengths(scheduler.Schedule(kStart).plan), ElementsAre(1, 8));
}

TEST(Scheduler, PromptLogprobsRecomputeThePrompt) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(6)));
  RunStep(&scheduler);
  scheduler.Finish(Id(1));
  auto request = MakeRequest(6);
  request->sampling.prompt_logprobs = 2;
  scheduler.Add(MakeSequence(2, request));
  const ScheduleResult result = scheduler.Schedule(kStart);
  EXPECT_THAT(ChunkLengths(result.plan), ElementsAre(6));
  EXPECT_THAT(result.plan.logits_rows, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(result.plan.sampling.forced, ElementsAre(11, 12, 13, 14, 15, -1));
  const auto updates = scheduler.Apply(ResultOf(result.plan));
  EXPECT_EQ(updates[0].num_prompt_rows, 5);
  EXPECT_EQ(updates[0].row, 5);
}

TEST(Scheduler, UnusableRowEndsOnlyItsSequence) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3)));
  scheduler.Add(MakeSequence(2, MakeRequest(3)));
  BatchResult result = ResultOf(scheduler.Schedule(kStart).plan);
  result.token[0] = -1;
  const auto updates = scheduler.Apply(result);
  EXPECT_TRUE(updates[0].unusable);
  EXPECT_FALSE(updates[1].unusable);
  EXPECT_EQ(scheduler.stats().num_running, 1);
  EXPECT_EQ(scheduler.stats().blocks_used, 1);
}

TEST(Scheduler, FinishesByStopIdAndByLength) {
  Scheduler scheduler(SmallOptions(), BlockHash{});
  scheduler.Add(MakeSequence(1, MakeRequest(3, 8), kStart, {9}));
  scheduler.Add(MakeSequence(2, MakeRequest(3, 1)));
  const auto updates = RunStep(&scheduler);
  EXPECT_EQ(updates[0].finish->reason, FinishReason::kStop);
  EXPECT_EQ(updates[0].finish->stop_token_id, 9);
  EXPECT_EQ(updates[1].finish->reason, FinishReason::kLength);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(scheduler.stats().blocks_used, 0);
}

TEST(Scheduler, MoreSequencesThanTokensPerStepCannotRun) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 100;
  options.max_num_batched_tokens = 3;
  Scheduler scheduler(options, BlockHash{});
  for (uint64_t id = 1; id <= 5; ++id) scheduler.Add(MakeSequence(id, MakeRequest(1)));
  for (int i = 0; i < 3; ++i) RunStep(&scheduler);
  EXPECT_EQ(scheduler.stats().num_running, 3);
}

}  // namespace
}  // namespace tessera
