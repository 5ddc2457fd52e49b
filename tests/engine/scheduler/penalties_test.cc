// Penalties whose counts stay on the device: sequences draw what they draw alone, however they come
// to their slots.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "engine/scheduler/penalty_slots.h"
#include "tests/engine/scheduler/expected_tokens.h"
#include "tests/engine/scheduler/fake_model.h"
#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

constexpr int32_t kVocab = 50;

std::shared_ptr<GenerateRequest> Penalised(int32_t prompt_length, int32_t max_tokens) {
  auto request = MakeRequest(prompt_length, max_tokens);
  request->sampling.repetition_penalty = 1.5F;
  request->sampling.frequency_penalty = 0.5F;
  return request;
}

// A scheduler over the fake model. Every sequence has to draw what the rules say it draws alone.
class PenaltiesTest : public testing::Test {
 protected:
  void Start(const SchedulerOptions& options) {
    scheduler_ = std::make_unique<Scheduler>(options, BlockHash{});
    model_ = std::make_unique<FakeModel>(options.num_blocks, options.block_size, kVocab);
  }
  void Add(uint64_t id, const std::shared_ptr<GenerateRequest>& request) {
    auto sequence = MakeSequence(id, request);
    expected_[sequence->id()] = ExpectedTokens(
        *request,
        {.seed = sequence->seed(), .stop_ids = {}, .max_model_len = 1000, .vocab_size = kVocab});
    scheduler_->Add(std::move(sequence));
  }
  // One step; returns its plan.
  BatchPlan Step() {
    ScheduleResult schedule = scheduler_->Schedule(absl::UnixEpoch());
    preemptions_ += static_cast<int>(schedule.preempted.size());
    if (schedule.plan.num_sequences() == 0) return {};
    for (const SequenceUpdate& update : scheduler_->Apply(model_->Run(schedule.plan))) {
      if (update.token >= 0) drawn_[update.id].push_back(update.token);
    }
    EXPECT_EQ(model_->error(), nullptr) << model_->error();
    EXPECT_TRUE(scheduler_->CheckIntegrity().ok()) << scheduler_->CheckIntegrity();
    return schedule.plan;
  }
  // Until nothing is left; returns how many lists the plans had.
  int Run() {
    int lists = 0;
    for (int step = 0; step < 1000 && !scheduler_->idle(); ++step) {
      const SamplingPlan plan = Step().sampling;
      lists +=
          static_cast<int>(std::count(plan.penalty_reset.begin(), plan.penalty_reset.end(), 1));
    }
    for (const auto& [id, expected] : expected_) {
      EXPECT_EQ(drawn_[id], expected.tokens) << "sequence " << static_cast<uint64_t>(id);
    }
    return lists;
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeModel> model_;
  std::map<SequenceId, ExpectedOutput> expected_;
  std::map<SequenceId, std::vector<int32_t>> drawn_;
  int preemptions_ = 0;
};

TEST_F(PenaltiesTest, ChoicesOfARequestCountForThemselves) {
  Start(SmallOptions());
  const auto request = Penalised(9, 12);
  for (uint64_t choice = 1; choice <= 4; ++choice) Add(choice, request);
  EXPECT_EQ(Run(), 4) << "each lists its counts once";
}

TEST_F(PenaltiesTest, PreemptedSequencesListAgain) {
  SchedulerOptions options = SmallOptions();
  options.num_blocks = 12;
  options.enable_prefix_cache = false;
  Start(options);
  for (uint64_t id = 1; id <= 4; ++id) Add(id, Penalised(6, 20));
  const int lists = Run();
  EXPECT_GT(preemptions_, 0);
  EXPECT_EQ(lists, 4 + preemptions_);
}

TEST_F(PenaltiesTest, PrefixHitsListWhatTheyDidNotCompute) {
  Start(SmallOptions());
  Add(1, Penalised(12, 3));
  EXPECT_EQ(Run(), 1);
  Add(2, Penalised(12, 8));
  const BatchPlan plan = Step();
  EXPECT_EQ(plan.num_tokens(), 4) << "the others were found";
  EXPECT_EQ(plan.sampling.pen_tokens.size(), 12U);
  Run();
}

TEST_F(PenaltiesTest, ChunkedPromptsListWithTheirFirstDraw) {
  Start(SmallOptions());
  Add(1, MakeRequest(2, 30));
  Step();
  Add(2, Penalised(30, 8));
  int chunks = 0;
  while (drawn_[static_cast<SequenceId>(2)].empty()) {
    const SamplingPlan plan = Step().sampling;
    const bool draws = plan.forced.size() == 2;
    EXPECT_EQ(plan.pen_tokens.size(), draws ? 30U : 0U);
    ++chunks;
  }
  EXPECT_GT(chunks, 3);
  EXPECT_EQ(Run(), 0);
}

TEST_F(PenaltiesTest, SlotsChangeHands) {
  SchedulerOptions options = SmallOptions();
  options.max_num_seqs = 2;
  Start(options);
  for (uint64_t id = 1; id <= 12; ++id) {
    Add(id, id % 3 == 0 ? MakeRequest(4, 5) : Penalised(4, 3 + static_cast<int32_t>(id)));
  }
  Step();
  scheduler_->Finish(static_cast<SequenceId>(1));
  expected_.erase(static_cast<SequenceId>(1));
  Run();
}

// Prompts found in the cache bring long lists with few tokens to compute.
TEST_F(PenaltiesTest, ListsThatDoNotFitWait) {
  SchedulerOptions options = SmallOptions();
  options.max_num_batched_tokens = 8;
  options.max_num_seqs = 4;
  options.max_model_len = 36;
  Start(options);
  Add(1, Penalised(33, 2));
  Run();
  // 52 tokens may be listed, each of these lists 33.
  for (uint64_t id = 2; id <= 4; ++id) Add(id, Penalised(33, 4));
  for (uint64_t id = 2; id <= 4; ++id) {
    const BatchPlan plan = Step();
    EXPECT_EQ(plan.sampling.pen_tokens.size(), 33U);
    EXPECT_EQ(plan.num_logits(), static_cast<int32_t>(id) - 1) << "one more draws in each step";
  }
  EXPECT_EQ(Run(), 0);
}

std::unique_ptr<Sequence> WithListOf(int32_t tokens, uint64_t id) {
  return MakeSequence(id, Penalised(tokens, 8));
}

TEST(PenaltySlots, TheFirstListOfAStepAlwaysFits) {
  PenaltySlots slots(3, /*max_listed=*/10);
  const auto large = WithListOf(20, 1);
  const auto small = WithListOf(4, 2);
  const auto plain = MakeSequence(3, MakeRequest(4));
  for (Sequence* sequence : {large.get(), small.get(), plain.get()}) slots.Give(sequence);
  EXPECT_EQ(plain->penalty_slot, -1);
  slots.BeginStep();
  EXPECT_EQ(slots.TokensThatFit(*small, 3), 3) << "draws nothing yet";
  EXPECT_EQ(slots.TokensThatFit(*large, 20), 20);
  EXPECT_EQ(slots.TokensThatFit(*small, 4), 3);
  EXPECT_EQ(slots.TokensThatFit(*plain, 4), 4);
  slots.BeginStep();
  EXPECT_EQ(slots.TokensThatFit(*small, 4), 4);
  EXPECT_EQ(slots.TokensThatFit(*large, 20), 19);
  large->penalties_listed = true;
  EXPECT_EQ(slots.TokensThatFit(*large, 20), 20) << "its list is on the device";
}

TEST(PenaltySlots, ChecksWhoHoldsWhat) {
  PenaltySlots slots(2, 100);
  const auto a = WithListOf(4, 1);
  const auto b = WithListOf(4, 2);
  slots.Give(a.get());
  slots.Give(b.get());
  EXPECT_EQ(a->penalty_slot, 0);
  EXPECT_EQ(b->penalty_slot, 1);
  EXPECT_TRUE(slots.CheckIntegrity({a.get(), b.get()}).ok());
  EXPECT_FALSE(slots.CheckIntegrity({a.get()}).ok()) << "a slot is lost";
  slots.TakeBack(a.get());
  slots.TakeBack(a.get());  // has none any more
  EXPECT_EQ(a->penalty_slot, -1);
  EXPECT_TRUE(slots.CheckIntegrity({b.get()}).ok());
  EXPECT_FALSE(slots.CheckIntegrity({a.get(), b.get()}).ok()) << "one runs without a slot";
  b->penalty_slot = 0;
  EXPECT_FALSE(slots.CheckIntegrity({b.get()}).ok()) << "two hold the same";
}

}  // namespace
}  // namespace tessera
