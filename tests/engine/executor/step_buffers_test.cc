#include "engine/executor/step_buffers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "kernels/ops.h"
#include "tests/engine/executor/full_plan.h"

namespace tessera {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr StepLimits kLimits{.max_tokens = 64,
                             .max_sequences = 20,
                             .max_blocks = 12,
                             .max_positions = 48,
                             .vocab_size = 100};

void AddRow(int32_t row, BatchPlan* plan) {
  SamplingPlan& s = plan->sampling;
  plan->logits_rows.push_back(row);
  s.forced.push_back(-1);
  for (auto* values : {&s.temperature, &s.top_p, &s.min_p, &s.repetition_penalty,
                       &s.presence_penalty, &s.frequency_penalty}) {
    values->push_back(0.5F);
  }
  for (auto* values : {&s.top_k, &s.position, &s.num_logprobs, &s.penalty_slot, &s.penalty_reset}) {
    values->push_back(0);
  }
  s.seed.push_back(7);
  s.mask_row.push_back(-1);
  s.mask_penalty.push_back(2.0F);
  s.pen_offsets.push_back(static_cast<int32_t>(s.pen_tokens.size()));
  s.adj_offsets.push_back(static_cast<int32_t>(s.adj_tokens.size()));
}

// Sequences with these numbers of tokens; each draws.
BatchPlan PlanOf(const std::vector<int32_t>& lengths) {
  BatchPlan plan;
  plan.cu_seqlens = plan.sampling.pen_offsets = plan.sampling.adj_offsets = {0};
  plan.max_blocks = 3;
  for (int32_t length : lengths) {
    for (int32_t i = 0; i < length; ++i) {
      plan.token_ids.push_back(i);
      plan.token_source.push_back(-1);
      plan.positions.push_back(i);
      plan.slot_mapping.push_back(i);
    }
    plan.cu_seqlens.push_back(plan.num_tokens());
    plan.context_lens.push_back(length);
    plan.block_tables.insert(plan.block_tables.end(), {4, 5, -1});
    AddRow(plan.num_tokens() - 1, &plan);
  }
  return plan;
}

TEST(BatchBucket, GrowsInStepsThatAGraphCanBeCapturedFor) {
  EXPECT_EQ(BatchBucket(0, 256), 0);
  int64_t last = 0;
  std::vector<int64_t> buckets;
  for (int64_t count = 1; count <= 40; ++count) {
    const int64_t bucket = BatchBucket(count, 36);
    EXPECT_GE(bucket, std::min<int64_t>(count, 36));
    if (bucket != last) buckets.push_back(last = bucket);
  }
  EXPECT_THAT(buckets, ElementsAre(1, 2, 4, 8, 16, 24, 32, 36));
}

TEST(TableBucket, GrowsByFours) {
  EXPECT_EQ(TableBucket(1, 2560), 16);
  EXPECT_EQ(TableBucket(16, 2560), 16);
  EXPECT_EQ(TableBucket(17, 2560), 64);
  EXPECT_EQ(TableBucket(1025, 2560), 2560);
  EXPECT_EQ(TableBucket(3, 12), 12);
}

TEST(DecodeBuckets, AreThoseThatDecodeStepsHave) {
  const std::vector<StepExtents> buckets = DecodeBuckets(kLimits);
  for (size_t i = 1; i < buckets.size(); ++i) EXPECT_GE(buckets[i].tokens, buckets[i - 1].tokens);
  std::set<const StepExtents*> used;
  for (int32_t count = 1; count <= kLimits.max_sequences; ++count) {
    const StepExtents bucket = BucketExtents(PlanOf(std::vector<int32_t>(count, 1)), kLimits);
    const auto found = std::find(buckets.begin(), buckets.end(), bucket);
    ASSERT_NE(found, buckets.end()) << count;
    used.insert(&*found);
  }
  EXPECT_EQ(used.size(), buckets.size());
  StepLimits longer = kLimits;
  longer.max_blocks = 100;
  EXPECT_EQ(DecodeBuckets(longer).size(), 3 * buckets.size());  // tables of 16, 64, 100
}

TEST(BucketExtents, HaveRoomForEveryPlanAndAnOwnerForEveryPaddedToken) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::vector<int32_t> lengths(random() % (kLimits.max_sequences + 1));
    int32_t left = kLimits.max_tokens;
    for (int32_t& length : lengths) {
      const auto room = left - static_cast<int32_t>(lengths.size());
      length = random() % 3 == 0 ? 1 + static_cast<int32_t>(random() % std::max(1, room / 4)) : 1;
      left -= length - 1;
    }
    const BatchPlan plan = PlanOf(lengths);
    const StepExtents exact = ExactExtents(plan);
    const StepExtents bucket = BucketExtents(plan, kLimits);
    EXPECT_GE(bucket.tokens, exact.tokens);
    EXPECT_GE(bucket.rows, exact.rows);
    EXPECT_GE(bucket.max_blocks, exact.max_blocks);
    EXPECT_GE(bucket.sequences, exact.sequences + (bucket.tokens > exact.tokens ? 1 : 0));
    EXPECT_LE(bucket.tokens, kLimits.max_tokens);
    EXPECT_TRUE(exact.tokens != exact.sequences || bucket.sequences == bucket.tokens);
  }
}

// Tables of three blocks as the decode steps of kLimits have them.
std::vector<int32_t> WidenedTables(const std::vector<int32_t>& tables) {
  std::vector<int32_t> wide(tables.size() / 3 * kLimits.max_blocks, -1);
  for (size_t i = 0; i < tables.size(); ++i) wide[i / 3 * kLimits.max_blocks + i % 3] = tables[i];
  return wide;
}

// Groups that all decode run one graph; one with a prompt leaves every group its own.
TEST(GroupBuckets, AreOneWhenAllDecode) {
  StepPlan plan;
  plan.groups = {PlanOf({1, 1, 1}), EmptyPlan(), PlanOf(std::vector<int32_t>(9, 1))};
  std::vector<StepExtents> buckets = GroupBuckets(plan, kLimits);
  EXPECT_THAT(buckets, Each(BucketExtents(plan.groups[2], kLimits)));
  plan.groups[1] = PlanOf({5});
  buckets = GroupBuckets(plan, kLimits);
  for (size_t g = 0; g < 3; ++g) EXPECT_EQ(buckets[g], BucketExtents(plan.groups[g], kLimits)) << g;
}

class StepInputsTest : public testing::Test {
 protected:
  std::vector<int32_t> Ints(ConstTensorView view) {
    std::vector<int32_t> values(view.num_elements());
    ops_->device().Download(values.data(), view.data(), values.size() * sizeof(int32_t));
    EXPECT_TRUE(ops_->device().Synchronize().ok());
    return values;
  }

  std::unique_ptr<Ops> ops_ = *CreateOps({.backend = "queued"});
  StepInputs inputs_ = *StepInputs::Create(&ops_->device(), kLimits);
};

TEST_F(StepInputsTest, WhatPadsIsInert) {
  const BatchPlan plan = PlanOf({1, 1, 1});
  const StepViews views = *inputs_.Upload(plan, BucketExtents(plan, kLimits));
  const ForwardBatch& batch = views.forward;
  EXPECT_THAT(Ints(batch.token_count), ElementsAre(3));
  EXPECT_THAT(Ints(batch.token_ids), ElementsAre(0, 0, 0, -1));
  EXPECT_THAT(Ints(batch.token_source), Each(-1));
  EXPECT_THAT(Ints(batch.slot_mapping), ElementsAre(0, 0, 0, -1));
  EXPECT_THAT(Ints(batch.cu_seqlens), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Ints(batch.context_lens), ElementsAre(1, 1, 1, 0));
  EXPECT_THAT(Ints(batch.block_tables),
              ElementsAreArray(WidenedTables({4, 5, -1, 4, 5, -1, 4, 5, -1, -1, -1, -1})));
  EXPECT_THAT(Ints(views.logits_rows), ElementsAre(0, 1, 2, -1));
  EXPECT_THAT(Ints(views.sampling.forced), ElementsAre(-1, -1, -1, SampleArgs::kPaddedRow));
  EXPECT_THAT(Ints(views.sampling.penalty_slot), ElementsAre(0, 0, 0, -1));
}

// What graphs are captured with.
TEST_F(StepInputsTest, AnEmptyPlanIsAllPadding) {
  const StepViews views = *inputs_.Upload(EmptyPlan(), DecodeBuckets(kLimits)[2]);
  EXPECT_THAT(Ints(views.forward.token_count), ElementsAre(0));
  EXPECT_THAT(Ints(views.forward.token_ids), ElementsAre(-1, -1, -1, -1));
  EXPECT_THAT(Ints(views.forward.cu_seqlens), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Ints(views.forward.context_lens), Each(0));
  EXPECT_THAT(Ints(views.forward.block_tables), Each(-1));
  EXPECT_THAT(Ints(views.logits_rows), Each(-1));
}

TEST_F(StepInputsTest, PaddedTokensOfAMixedStepBelongToPaddedSequences) {
  const BatchPlan plan = PlanOf({9, 1});
  const StepViews views = *inputs_.Upload(plan, BucketExtents(plan, kLimits));
  EXPECT_THAT(Ints(views.forward.cu_seqlens), ElementsAre(0, 9, 10, 11, 16));
  EXPECT_THAT(Ints(views.forward.context_lens), ElementsAre(9, 1, 0, 0));
}

// What a captured graph relies on: the same bucket, the same addresses.
TEST_F(StepInputsTest, AddressesDependOnTheBucketAlone) {
  const auto addresses = [&](const BatchPlan& plan) {
    const StepViews views = *inputs_.Upload(plan, BucketExtents(plan, kLimits));
    const ForwardBatch& batch = views.forward;
    std::vector<const void*> all;
    for (const ConstTensorView& view :
         {batch.token_count, batch.token_ids, batch.token_source, batch.positions,
          batch.slot_mapping, batch.cu_seqlens, batch.context_lens, batch.block_tables,
          views.logits_rows, views.sampling.forced, views.sampling.temperature, views.sampling.seed,
          views.sampling.mask_row, views.sampling.adj_offsets}) {
      all.push_back(view.data());
      all.push_back(reinterpret_cast<const void*>(view.num_elements()));
    }
    return all;
  };
  EXPECT_EQ(addresses(PlanOf(std::vector<int32_t>(9, 1))),
            addresses(PlanOf(std::vector<int32_t>(16, 1))));
  EXPECT_NE(addresses(PlanOf(std::vector<int32_t>(8, 1))),
            addresses(PlanOf(std::vector<int32_t>(16, 1))));
  BatchPlan with_lists = PlanOf(std::vector<int32_t>(12, 1));
  with_lists.sampling.adj_tokens = {3, 4};
  with_lists.sampling.adj_values = {1.0F, 2.0F};
  with_lists.sampling.adj_offsets.back() = 2;
  EXPECT_EQ(addresses(with_lists), addresses(PlanOf(std::vector<int32_t>(10, 1))));
}

// What a hostile client can ask for on the real vocabulary.
TEST_F(StepInputsTest, HasRoomForTheLargestPlan) {
  const PlanLimits plans{.vocab_size = 151'936,
                         .block_size = 4,
                         .max_tokens = 40,
                         .max_num_seqs = 20,
                         .max_positions = 48};
  const StepLimits limits{.max_tokens = plans.max_tokens,
                          .max_sequences = plans.max_num_seqs,
                          .max_blocks = static_cast<int32_t>(plans.max_blocks_per_sequence()),
                          .max_positions = plans.max_positions,
                          .vocab_size = plans.vocab_size};
  const BatchPlan plan = FullGroup(plans);
  StepInputs inputs = *StepInputs::Create(&ops_->device(), limits);
  for (const StepExtents& extents : {ExactExtents(plan), BucketExtents(plan, limits)}) {
    const auto views = inputs.Upload(plan, extents);
    ASSERT_TRUE(views.ok()) << views.status();
    EXPECT_THAT(Ints(views->sampling.adj_tokens), Each(4));
  }
}

TEST_F(StepInputsTest, RefusesWhatHasNoRoom) {
  BatchPlan plan = PlanOf({1});
  plan.sampling.adj_tokens.resize(size_t(inputs_.bytes()) / 4);
  EXPECT_EQ(inputs_.Upload(plan, ExactExtents(plan)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tessera
