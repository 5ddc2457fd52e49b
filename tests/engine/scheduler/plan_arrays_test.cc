#include "engine/scheduler/plan_arrays.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class PlanBuilder : public testing::Test {
 protected:
  // A sequence whose prompt is computed and that has produced `output`.
  Sequence* Decoding(std::shared_ptr<GenerateRequest> request, const std::vector<int32_t>& output,
                     const std::vector<int32_t>& stop_ids = {}) {
    sequences_.push_back(
        MakeSequence(sequences_.size() + 1, std::move(request), absl::UnixEpoch(), stop_ids));
    Sequence* sequence = sequences_.back().get();
    TokenFinish finish;
    for (int32_t token : output) sequence->Append(token, &finish);
    sequence->num_planned = sequence->num_tokens() - 1;
    for (int32_t i = 0; i <= sequence->num_tokens() / 4; ++i) {
      sequence->kv.blocks.push_back(static_cast<BlockId>(next_block_++));
    }
    return sequence;
  }

  static BatchPlan Build(const std::vector<Sequence*>& sequences) {
    std::vector<PlannedSequence> planned;
    for (Sequence* s : sequences) {
      planned.push_back({.sequence = s, .num_tokens = s->num_tokens() - s->num_planned});
    }
    return BuildPlan(/*block_size=*/4, &planned);
  }

  static std::vector<int32_t> Banned(const BatchPlan& plan, int32_t row = 0) {
    std::vector<int32_t> banned;
    for (int32_t i = plan.sampling.adj_offsets[row]; i < plan.sampling.adj_offsets[row + 1]; ++i) {
      if (std::isinf(plan.sampling.adj_values[i])) banned.push_back(plan.sampling.adj_tokens[i]);
    }
    return banned;
  }

  std::vector<std::unique_ptr<Sequence>> sequences_;
  int32_t next_block_ = 5;
};

TEST_F(PlanBuilder, LaysOutSlotsTablesAndRows) {
  Sequence* prefill = Decoding(MakeRequest(6), {});
  prefill->num_planned = 2;
  Sequence* decode = Decoding(MakeRequest(3), {9});
  const BatchPlan plan = Build({decode, prefill});
  // The prefill has blocks 5 and 6, the decode 7 and 8.
  EXPECT_THAT(plan.token_ids, ElementsAre(9, 12, 13, 14, 15));
  EXPECT_THAT(plan.positions, ElementsAre(3, 2, 3, 4, 5));
  EXPECT_THAT(plan.slot_mapping, ElementsAre(31, 22, 23, 24, 25));
  EXPECT_THAT(plan.cu_seqlens, ElementsAre(0, 1, 5));
  EXPECT_THAT(plan.context_lens, ElementsAre(4, 6));
  EXPECT_EQ(plan.max_blocks, 2);
  EXPECT_THAT(plan.block_tables, ElementsAre(7, 8, 5, 6));
  EXPECT_THAT(plan.logits_rows, ElementsAre(0, 4));
  EXPECT_THAT(plan.sampling.position, ElementsAre(4, 6));
  EXPECT_THAT(plan.sampling.seed, ElementsAre(42, 41));
}

TEST_F(PlanBuilder, CarriesSamplingParameters) {
  auto request = MakeRequest(2);
  request->sampling = {.temperature = 0.5F,
                       .top_k = 3,
                       .top_p = 0.9F,
                       .min_p = 0.1F,
                       .repetition_penalty = 1.2F,
                       .presence_penalty = 0.3F,
                       .frequency_penalty = 0.4F};
  request->sampling.logprobs = 5;
  request->sampling.logit_bias = {{4, 1.5F}};
  Sequence* sequence = Decoding(request, {10});
  sequence->penalty_slot = 3;
  const BatchPlan plan = Build({sequence});
  const SamplingPlan& s = plan.sampling;
  EXPECT_THAT(s.temperature, ElementsAre(0.5F));
  EXPECT_THAT(s.top_k, ElementsAre(3));
  EXPECT_THAT(s.top_p, ElementsAre(0.9F));
  EXPECT_THAT(s.min_p, ElementsAre(0.1F));
  EXPECT_THAT(s.repetition_penalty, ElementsAre(1.2F));
  EXPECT_THAT(s.presence_penalty, ElementsAre(0.3F));
  EXPECT_THAT(s.frequency_penalty, ElementsAre(0.4F));
  EXPECT_THAT(s.num_logprobs, ElementsAre(5));
  EXPECT_THAT(s.penalty_slot, ElementsAre(3));
  EXPECT_THAT(s.penalty_reset, ElementsAre(1));
  EXPECT_THAT(s.pen_tokens, ElementsAre(10, 11));
  EXPECT_THAT(s.pen_counts, ElementsAre(1, 0));
  EXPECT_THAT(s.pen_offsets, ElementsAre(0, 2));
  EXPECT_THAT(s.adj_tokens, ElementsAre(4));
  EXPECT_THAT(s.adj_values, ElementsAre(1.5F));
}

TEST_F(PlanBuilder, ListsPenaltiesOnceAndThenLeavesThemToTheDevice) {
  auto request = MakeRequest(2);
  request->sampling.repetition_penalty = 1.2F;
  Sequence* plain = Decoding(MakeRequest(2), {});
  Sequence* sequence = Decoding(request, {11});
  sequence->penalty_slot = 1;
  sequence->num_planned = 1;  // a chunk that draws nothing lists nothing
  std::vector<PlannedSequence> chunk = {{.sequence = sequence, .num_tokens = 1}};
  EXPECT_THAT(BuildPlan(4, &chunk).sampling.penalty_slot, IsEmpty());
  EXPECT_FALSE(sequence->penalties_listed);
  sequence->num_planned = 2;
  const SamplingPlan first = Build({plain, sequence}).sampling;
  EXPECT_THAT(first.penalty_slot, ElementsAre(-1, 1));
  EXPECT_THAT(first.penalty_reset, ElementsAre(0, 1));
  EXPECT_THAT(first.pen_offsets, ElementsAre(0, 0, 2));
  EXPECT_THAT(first.pen_tokens, ElementsAre(10, 11));
  EXPECT_THAT(first.pen_counts, ElementsAre(0, 1));
  const SamplingPlan second = Build({plain, sequence}).sampling;
  EXPECT_THAT(second.penalty_slot, ElementsAre(-1, 1));
  EXPECT_THAT(second.penalty_reset, ElementsAre(0, 0));
  EXPECT_THAT(second.pen_tokens, IsEmpty());
}

TEST_F(PlanBuilder, ForcedRowsListPenaltiesToo) {
  auto request = MakeRequest(2);
  request->sampling.presence_penalty = 1.0F;
  request->reasoning = {.start_token_id = 1, .end_token_id = 2, .max_thinking_tokens = 0};
  request->reasoning.close_token_ids = {2};
  Sequence* sequence = Decoding(request, {1});
  sequence->penalty_slot = 0;
  const SamplingPlan plan = Build({sequence}).sampling;
  EXPECT_THAT(plan.forced, ElementsAre(2));
  EXPECT_THAT(plan.penalty_reset, ElementsAre(1));
  EXPECT_THAT(plan.pen_tokens, ElementsAre(1));
}

TEST_F(PlanBuilder, BansBadWordsOnlyWhenTheirBeginningIsThere) {
  auto request = MakeRequest(2);  // prompt 10, 11
  request->sampling.bad_words = {{3}, {20, 21}, {20, 22, 23}, {11, 4}, {}};
  EXPECT_THAT(Banned(Build({Decoding(request, {})})), ElementsAre(3));
  EXPECT_THAT(Banned(Build({Decoding(request, {20})})), ElementsAre(3, 21));
  EXPECT_THAT(Banned(Build({Decoding(request, {20, 22})})), ElementsAre(3, 23));
  EXPECT_THAT(Banned(Build({Decoding(request, {22})})), ElementsAre(3));
}

TEST_F(PlanBuilder, BansStopIdsBeforeMinTokens) {
  auto request = MakeRequest(2);
  request->stopping.min_tokens = 2;
  EXPECT_THAT(Banned(Build({Decoding(request, {30}, {1, 2})})), ElementsAre(1, 2));
  EXPECT_THAT(Banned(Build({Decoding(request, {30, 30}, {1, 2})})), IsEmpty());
}

TEST_F(PlanBuilder, AllowedIdsAreOneMaskPerDistinctSet) {
  auto request = MakeRequest(2);
  request->sampling.allowed_token_ids = {7, 33, 7};
  auto equal = MakeRequest(2);
  equal->sampling.allowed_token_ids = {33, 7};
  auto other = MakeRequest(2);
  other->sampling.allowed_token_ids = {49};
  auto forced = MakeRequest(2);
  forced->sampling.allowed_token_ids = {1};
  forced->reasoning = {.start_token_id = 1, .end_token_id = 2, .max_thinking_tokens = 0};
  forced->reasoning.close_token_ids = {2};
  const BatchPlan plan = Build({Decoding(request, {}), Decoding(MakeRequest(2), {}),
                                Decoding(other, {}), Decoding(forced, {1}), Decoding(equal, {8})});
  EXPECT_EQ(plan.sampling.num_masks, 2);
  EXPECT_THAT(plan.sampling.masks, ElementsAre(1 << 7, 1 << 1, 0, 1 << 17));
  EXPECT_THAT(plan.sampling.mask_row, ElementsAre(0, -1, 1, -1, 0));
  EXPECT_THAT(Banned(plan), IsEmpty());
}

TEST_F(PlanBuilder, ForcesTheCloseSequenceOfASpentBudget) {
  auto request = MakeRequest(2);
  request->reasoning = {.start_token_id = 1, .end_token_id = 2, .max_thinking_tokens = 1};
  request->reasoning.close_token_ids = {30, 2};
  EXPECT_THAT(Build({Decoding(request, {1})}).sampling.forced, ElementsAre(-1));
  EXPECT_THAT(Build({Decoding(request, {1, 5})}).sampling.forced, ElementsAre(30));
  EXPECT_THAT(Build({Decoding(request, {1, 5, 30})}).sampling.forced, ElementsAre(2));
  EXPECT_THAT(Build({Decoding(request, {1, 5, 30, 2})}).sampling.forced, ElementsAre(-1));
}

TEST_F(PlanBuilder, PromptRowsReportTheNextToken) {
  auto request = MakeRequest(4);
  request->sampling.prompt_logprobs = 3;
  request->sampling.allowed_token_ids = {4};
  Sequence* sequence = Decoding(request, {});
  sequence->num_planned = 1;
  sequence->num_prompt_logprobs = 2;  // rows 0 and 1 came before a preemption
  std::vector<PlannedSequence> planned = {{.sequence = sequence, .num_tokens = 3}};
  const BatchPlan plan = BuildPlan(4, &planned);
  EXPECT_THAT(plan.logits_rows, ElementsAre(1, 2));
  EXPECT_THAT(plan.sampling.forced, ElementsAre(13, -1));
  EXPECT_THAT(plan.sampling.num_logprobs, ElementsAre(3, -1));
  EXPECT_THAT(plan.sampling.mask_row, ElementsAre(-1, 0));
  EXPECT_EQ(planned[0].num_prompt_rows, 1);
  EXPECT_TRUE(planned[0].samples);
}

}  // namespace
}  // namespace tessera
