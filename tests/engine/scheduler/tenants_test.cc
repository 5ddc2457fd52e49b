#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr absl::Time kStart = absl::UnixEpoch();

SequenceId Id(uint64_t id) { return static_cast<SequenceId>(id); }

struct Wish {
  std::string tenant;
  int32_t prompt = 2;
  int32_t output = 8;
  double weight = 1;
  double kv_share = 0;
  int32_t priority = 0;
};

// A scheduler and its tenants' requests, numbered from 1 in the order of coming.
class Tenants {
 public:
  explicit Tenants(const SchedulerOptions& options) : scheduler_(options, BlockHash{}) {}

  uint64_t Add(const Wish& wish, absl::Time at = kStart) {
    auto request = MakeRequest(wish.prompt, wish.output);
    request->prompt_ids[0] = static_cast<int32_t>(++last_);  // shares no prefix
    request->tenant = {.name = wish.tenant, .weight = wish.weight, .kv_share = wish.kv_share};
    request->priority = wish.priority;
    tenant_[last_] = wish.tenant;
    scheduler_.Add(MakeSequence(last_, request, at));
    return last_;
  }
  ScheduleResult Step(absl::Time now = kStart) {
    ScheduleResult result = scheduler_.Schedule(now);
    for (const SequenceUpdate& update : scheduler_.Apply(ResultOf(result.plan))) {
      if (update.token >= 0) ++tokens_[tenant_[static_cast<uint64_t>(update.id)]];
    }
    EXPECT_TRUE(scheduler_.CheckIntegrity().ok());
    return result;
  }
  std::map<std::string, int32_t> Running() const {
    std::map<std::string, int32_t> running;
    for (const Sequence* sequence : scheduler_.sequences()) {
      if (sequence->state == SequenceState::kRunning) ++running[sequence->request().tenant.name];
    }
    return running;
  }
  int32_t tokens(const std::string& tenant) { return tokens_[tenant]; }
  Scheduler& scheduler() { return scheduler_; }

 private:
  Scheduler scheduler_;
  uint64_t last_ = 0;
  std::map<uint64_t, std::string> tenant_;
  std::map<std::string, int32_t> tokens_;
};

TEST(Tenants, SeatsGoByParts) {
  Tenants t(SmallOptions());
  for (int i = 0; i < 9; ++i) t.Add({.tenant = "a", .output = 100});
  t.Step();
  EXPECT_EQ(t.Running()["a"], 4);  // nobody else is there
  const uint64_t first = t.Add({.tenant = "b", .output = 100});
  const ScheduleResult result = t.Step();
  EXPECT_THAT(result.preempted, ElementsAre(Id(4)));  // the last of those who run
  EXPECT_THAT(result.started, ElementsAre(Id(first)));
  for (int i = 0; i < 9; ++i) t.Add({.tenant = "b", .output = 100});
  for (int i = 0; i < 3; ++i) t.Step();
  EXPECT_EQ(t.Running()["a"], 2);
  EXPECT_EQ(t.Running()["b"], 2);
}

TEST(Tenants, PartsGoByWeight) {
  Tenants t(SmallOptions());
  for (int i = 0; i < 20; ++i) t.Add({.tenant = "a", .output = 100});
  for (int i = 0; i < 20; ++i) t.Add({.tenant = "b", .output = 100, .weight = 3});
  for (int i = 0; i < 40; ++i) t.Step();
  EXPECT_EQ(t.Running()["a"], 1);
  EXPECT_EQ(t.Running()["b"], 3);
  EXPECT_NEAR(static_cast<double>(t.tokens("b")) / t.tokens("a"), 3, 0.3);
}

// One seat cannot be shared out: whoever was served least comes next.
TEST(Tenants, TheLeastServedGoesFirst) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 1;
  Tenants t(options);
  for (int i = 0; i < 30; ++i) t.Add({.tenant = "long", .output = 12});
  for (int i = 0; i < 90; ++i) t.Add({.tenant = "short", .output = 4});
  for (int i = 0; i < 200; ++i) t.Step();
  EXPECT_NEAR(t.tokens("long"), t.tokens("short"), 24);
}

TEST(Tenants, NobodySavesUpByStayingAway) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 1;
  Tenants t(options);
  for (int i = 0; i < 90; ++i) t.Add({.tenant = "a", .output = 4});
  for (int i = 0; i < 100; ++i) t.Step();
  for (int i = 0; i < 90; ++i) t.Add({.tenant = "b", .output = 4});
  const int32_t before = t.tokens("a");
  for (int i = 0; i < 80; ++i) t.Step();
  EXPECT_NEAR(t.tokens("a") - before, t.tokens("b"), 8);
}

TEST(Tenants, PromptsOfOneLeaveThePartOfAnother) {
  SchedulerOptions options = SmallOptions();
  options.max_prefill_chunk = 16;
  Tenants t(options);
  for (int i = 0; i < 3; ++i) t.Add({.tenant = "a", .prompt = 60});
  t.Step();
  const uint64_t other = t.Add({.tenant = "b", .prompt = 20});
  const ScheduleResult result = t.Step();
  EXPECT_THAT(result.started, ElementsAre(Id(other)));
  EXPECT_THAT(ChunkLengths(result.plan), ElementsAre(8, 8));
  // What the other does not want is not kept for it.
  t.scheduler().Finish(Id(other));
  EXPECT_EQ(t.Step().plan.num_tokens(), 16);
}

TEST(Tenants, ThePartOfAStepIsNotMoreThanIsWanted) {
  SchedulerOptions options = SmallOptions();
  options.max_prefill_chunk = 16;
  Tenants t(options);
  t.Add({.tenant = "a", .prompt = 60});
  t.Add({.tenant = "b", .prompt = 3});
  const ScheduleResult result = t.Step();
  EXPECT_EQ(result.plan.num_tokens(), 16);
}

TEST(Tenants, WhoIsAboveItsShareOfKvGivesWay) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 40;
  options.max_num_batched_tokens = 200;
  Tenants t(options);
  for (int i = 0; i < 3; ++i) t.Add({.tenant = "a", .prompt = 48, .output = 100, .kv_share = 0.4});
  t.Step();
  EXPECT_EQ(t.Running()["a"], 3);  // room that nobody else wants is not kept free
  t.Add({.tenant = "b", .prompt = 80, .kv_share = 0.5});
  const ScheduleResult result = t.Step();
  EXPECT_THAT(result.preempted, ElementsAre(Id(3), Id(2)));
  EXPECT_THAT(result.started, ElementsAre(Id(4)));
  // Beyond its own share nobody takes anything from others.
  t.Add({.tenant = "b", .prompt = 40, .kv_share = 0.5});
  EXPECT_THAT(t.Step().preempted, IsEmpty());
}

TEST(Tenants, ADecodeTakesBlocksFromWhoIsAboveItsShare) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 12;
  options.max_num_batched_tokens = 200;
  Tenants t(options);
  t.Add({.tenant = "b", .prompt = 8, .output = 20}, kStart + absl::Seconds(1));
  t.Add({.tenant = "a", .prompt = 31, .output = 12}, kStart);
  t.Step(kStart + absl::Seconds(1));
  EXPECT_EQ(t.scheduler().stats().num_running, 2);
  std::vector<SequenceId> preempted;
  for (int i = 0; i < 20; ++i) {
    const ScheduleResult result = t.Step(kStart + absl::Seconds(1));
    preempted.insert(preempted.end(), result.preempted.begin(), result.preempted.end());
  }
  // The one of "b" came last, and would be the one without tenants.
  ASSERT_FALSE(preempted.empty());
  EXPECT_EQ(preempted.front(), Id(2));
}

TEST(Tenants, MoreImportantOnesGiveNoWay) {
  Tenants t(SmallOptions());
  for (int i = 0; i < 9; ++i) t.Add({.tenant = "a", .output = 100});
  t.Step();
  t.Add({.tenant = "b", .output = 100, .priority = 1});
  EXPECT_THAT(t.Step().preempted, IsEmpty());
  EXPECT_EQ(t.Running()["a"], 4);
  // Its turn comes all the same: it gains a class by waiting, what was queued with "a" does not.
  for (int i = 0; i < 200; ++i) t.Step(kStart + absl::Seconds(11));
  EXPECT_EQ(t.tokens("b"), 100);
}

TEST(Tenants, ALongQueueDoesNotGrowMoreImportant) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 1;
  Tenants t(options);
  for (int i = 0; i < 50; ++i) t.Add({.tenant = "a", .output = 4});
  absl::Time now = kStart;
  for (int i = 0; i < 20; ++i) t.Step(now += absl::Seconds(9));
  const uint64_t other = t.Add({.tenant = "b", .output = 4}, now);
  std::vector<SequenceId> started;
  for (int i = 0; i < 10; ++i) {
    const ScheduleResult result = t.Step(now += absl::Seconds(9));
    started.insert(started.end(), result.started.begin(), result.started.end());
  }
  // After the one that runs and at most another.
  EXPECT_THAT(started, testing::Contains(Id(other)));
}

}  // namespace
}  // namespace tessera
