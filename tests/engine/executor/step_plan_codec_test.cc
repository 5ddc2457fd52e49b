#include "engine/executor/step_plan_codec.h"

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/executor/random_plan.h"

namespace tessera {
namespace {

using testing::HasSubstr;

// A plan with two sequences and two rows in its first group, to be broken in one place.
StepPlan SmallPlan() {
  for (uint32_t seed = 0;; ++seed) {
    StepPlan plan = RandomPlan(seed).Plan();
    const BatchPlan& batch = plan.groups[0];
    if (batch.num_sequences() == 2 && batch.num_logits() == 2 &&
        batch.sampling.penalty_slot == std::vector<int32_t>{0, 1} &&
        batch.sampling.penalty_reset[0] == 1 && !batch.sampling.pen_tokens.empty() &&
        !batch.sampling.adj_tokens.empty() && batch.sampling.num_masks == 1 &&
        batch.copy_from.size() == 1) {
      return plan;
    }
  }
}

TEST(StepPlanCodec, PlansSurviveTheRoundTrip) {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    const std::string bytes = EncodeStepPlan(RandomPlan(seed).Plan());
    const auto decoded = DecodeStepPlan(bytes, kRandomPlanLimits);
    ASSERT_TRUE(decoded.ok()) << "seed " << seed << ": " << decoded.status();
    EXPECT_EQ(EncodeStepPlan(*decoded), bytes) << "seed " << seed;
  }
}

TEST(StepPlanCodec, EveryFieldArrives) {
  const StepPlan plan = SmallPlan();
  const auto decoded = DecodeStepPlan(EncodeStepPlan(plan), kRandomPlanLimits);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const BatchPlan& want = plan.groups[0];
  const BatchPlan& got = decoded->groups[0];
  EXPECT_EQ(decoded->step_id, plan.step_id);
  EXPECT_EQ(decoded->return_logits, plan.return_logits);
  EXPECT_EQ(got.token_ids, want.token_ids);
  EXPECT_EQ(got.token_source, want.token_source);
  EXPECT_EQ(got.positions, want.positions);
  EXPECT_EQ(got.slot_mapping, want.slot_mapping);
  EXPECT_EQ(got.cu_seqlens, want.cu_seqlens);
  EXPECT_EQ(got.context_lens, want.context_lens);
  EXPECT_EQ(got.max_blocks, want.max_blocks);
  EXPECT_EQ(got.block_tables, want.block_tables);
  EXPECT_EQ(got.logits_rows, want.logits_rows);
  EXPECT_EQ(got.sampling.forced, want.sampling.forced);
  EXPECT_EQ(got.sampling.temperature, want.sampling.temperature);
  EXPECT_EQ(got.sampling.top_k, want.sampling.top_k);
  EXPECT_EQ(got.sampling.top_p, want.sampling.top_p);
  EXPECT_EQ(got.sampling.min_p, want.sampling.min_p);
  EXPECT_EQ(got.sampling.repetition_penalty, want.sampling.repetition_penalty);
  EXPECT_EQ(got.sampling.presence_penalty, want.sampling.presence_penalty);
  EXPECT_EQ(got.sampling.frequency_penalty, want.sampling.frequency_penalty);
  EXPECT_EQ(got.sampling.seed, want.sampling.seed);
  EXPECT_EQ(got.sampling.position, want.sampling.position);
  EXPECT_EQ(got.sampling.num_logprobs, want.sampling.num_logprobs);
  EXPECT_EQ(got.sampling.penalty_slot, want.sampling.penalty_slot);
  EXPECT_EQ(got.sampling.penalty_reset, want.sampling.penalty_reset);
  EXPECT_EQ(got.sampling.pen_offsets, want.sampling.pen_offsets);
  EXPECT_EQ(got.sampling.pen_tokens, want.sampling.pen_tokens);
  EXPECT_EQ(got.sampling.pen_counts, want.sampling.pen_counts);
  EXPECT_EQ(got.sampling.adj_offsets, want.sampling.adj_offsets);
  EXPECT_EQ(got.sampling.adj_tokens, want.sampling.adj_tokens);
  EXPECT_EQ(got.sampling.adj_values, want.sampling.adj_values);
  EXPECT_EQ(got.sampling.num_masks, want.sampling.num_masks);
  EXPECT_EQ(got.sampling.masks, want.sampling.masks);
  EXPECT_EQ(got.sampling.mask_row, want.sampling.mask_row);
  EXPECT_EQ(got.sampling.mask_penalty, want.sampling.mask_penalty);
  EXPECT_EQ(got.copy_from, want.copy_from);
  EXPECT_EQ(got.copy_to, want.copy_to);
}

TEST(StepPlanCodec, IdleGroupsMayBeEmpty) {
  StepPlan plan = SmallPlan();
  plan.groups[1] = {};
  const auto decoded = DecodeStepPlan(EncodeStepPlan(plan), kRandomPlanLimits);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->groups[1].cu_seqlens, std::vector<int32_t>{0});
  EXPECT_EQ(decoded->groups[1].sampling.pen_offsets, std::vector<int32_t>{0});
}

TEST(StepPlanCodec, ResultsSurviveTheRoundTrip) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::string bytes = EncodeNodeStepResult(RandomPlan(seed).Result());
    const auto decoded = DecodeNodeStepResult(bytes, kRandomPlanLimits);
    ASSERT_TRUE(decoded.ok()) << "seed " << seed << ": " << decoded.status();
    EXPECT_EQ(EncodeNodeStepResult(*decoded), bytes) << "seed " << seed;
  }
}

TEST(StepPlanCodec, EveryTruncationIsRefused) {
  const std::string plan = EncodeStepPlan(SmallPlan());
  for (size_t size = 0; size < plan.size(); ++size) {
    EXPECT_FALSE(DecodeStepPlan(std::string_view(plan).substr(0, size), kRandomPlanLimits).ok())
        << size;
  }
  EXPECT_THAT(DecodeStepPlan(plan + "x", kRandomPlanLimits).status().message(),
              HasSubstr("too many"));
  const std::string result = EncodeNodeStepResult(RandomPlan(3).Result());
  for (size_t size = 0; size < result.size(); ++size) {
    EXPECT_FALSE(
        DecodeNodeStepResult(std::string_view(result).substr(0, size), kRandomPlanLimits).ok());
  }
}

TEST(StepPlanCodec, FlippedBytesAreRefusedOrStayWithinTheLimits) {
  std::mt19937 random(11);
  const std::string original = EncodeStepPlan(SmallPlan());
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = original;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    const auto plan = DecodeStepPlan(bytes, kRandomPlanLimits);
    refused += plan.ok() ? 0 : 1;
    EXPECT_TRUE(!plan.ok() || ValidateStepPlan(*plan, kRandomPlanLimits).ok());
  }
  EXPECT_GT(refused, 5000);
}

struct Breakage {
  const char* expected;
  std::function<void(BatchPlan*)> damage;
};

TEST(StepPlanCodec, RefusesWhatARankCannotRun) {
  const Breakage breakages[] = {
      {"token_ids[0] is 300", [](BatchPlan* p) { p->token_ids[0] = 300; }},
      {"token_ids[0] is -2", [](BatchPlan* p) { p->token_ids[0] = -2; }},
      {"token_source: a token needs exactly one",
       [](BatchPlan* p) { p->token_source[0] = p->token_source[0] < 0 ? 0 : -1; }},
      {"token_source has", [](BatchPlan* p) { p->token_source.pop_back(); }},
      {"positions[0] is 64", [](BatchPlan* p) { p->positions[0] = 64; }},
      {"positions: not the last", [](BatchPlan* p) { p->positions[0] ^= 1; }},
      {"slot_mapping[0] is 256", [](BatchPlan* p) { p->slot_mapping[0] = 256; }},
      {"slot_mapping has", [](BatchPlan* p) { p->slot_mapping.pop_back(); }},
      {"cu_seqlens: must run", [](BatchPlan* p) { p->cu_seqlens[0] = 1; }},
      {"cu_seqlens: must run", [](BatchPlan* p) { p->cu_seqlens[2] += 1; }},
      {"cu_seqlens: must ascend", [](BatchPlan* p) { p->cu_seqlens[1] = p->cu_seqlens[2]; }},
      {"cu_seqlens: must ascend", [](BatchPlan* p) { p->cu_seqlens[1] = -5; }},
      {"context_lens[0] is 0", [](BatchPlan* p) { p->context_lens[0] = 0; }},
      {"context_lens[0] is 65", [](BatchPlan* p) { p->context_lens[0] = 65; }},
      {"block_tables[0] is 64", [](BatchPlan* p) { p->block_tables[0] = 64; }},
      {"block_tables has", [](BatchPlan* p) { p->block_tables.pop_back(); }},
      {"max_blocks", [](BatchPlan* p) { p->max_blocks = -1; }},
      {"max_blocks", [](BatchPlan* p) { p->max_blocks = 1 << 30; }},
      {"logits_rows[0] is", [](BatchPlan* p) { p->logits_rows[0] = 1000; }},
      {"logits_rows: must ascend", [](BatchPlan* p) { p->logits_rows[0] = p->logits_rows[1]; }},
      {"forced[0] is -2", [](BatchPlan* p) { p->sampling.forced[0] = -2; }},
      {"temperature: holds NaN", [](BatchPlan* p) { p->sampling.temperature[0] = std::nanf(""); }},
      {"top_p has 1", [](BatchPlan* p) { p->sampling.top_p.pop_back(); }},
      {"seed has 1", [](BatchPlan* p) { p->sampling.seed.pop_back(); }},
      {"num_logprobs[0] is 301", [](BatchPlan* p) { p->sampling.num_logprobs[0] = 301; }},
      {"pen_offsets: must", [](BatchPlan* p) { p->sampling.pen_offsets[1] = 1000; }},
      {"pen_tokens[0] is 300", [](BatchPlan* p) { p->sampling.pen_tokens[0] = 300; }},
      {"penalty_slot[0] is 6", [](BatchPlan* p) { p->sampling.penalty_slot[0] = 6; }},
      {"penalty_slot[1] is -2", [](BatchPlan* p) { p->sampling.penalty_slot[1] = -2; }},
      {"penalty_slot has 1", [](BatchPlan* p) { p->sampling.penalty_slot.pop_back(); }},
      {"penalty_slot: two rows", [](BatchPlan* p) { p->sampling.penalty_slot[0] = 1; }},
      {"penalty_reset: without a slot", [](BatchPlan* p) { p->sampling.penalty_slot[0] = -1; }},
      {"penalty_reset[0] is 2", [](BatchPlan* p) { p->sampling.penalty_reset[0] = 2; }},
      {"penalty_reset has 1", [](BatchPlan* p) { p->sampling.penalty_reset.pop_back(); }},
      {"pen_offsets: a list without a reset",
       [](BatchPlan* p) {
         p->sampling.pen_offsets = {0, static_cast<int32_t>(p->sampling.pen_tokens.size()),
                                    static_cast<int32_t>(p->sampling.pen_tokens.size())};
         p->sampling.penalty_reset[0] = 0;
       }},
      {"pen_counts[0] is -1", [](BatchPlan* p) { p->sampling.pen_counts[0] = -1; }},
      {"pen_counts[0] is 65", [](BatchPlan* p) { p->sampling.pen_counts[0] = 65; }},
      {"pen_counts has", [](BatchPlan* p) { p->sampling.pen_counts.pop_back(); }},
      {"adj_offsets: must", [](BatchPlan* p) { p->sampling.adj_offsets[2] += 1; }},
      {"adj_tokens[0] is -7", [](BatchPlan* p) { p->sampling.adj_tokens[0] = -7; }},
      {"num_masks: more masks than rows", [](BatchPlan* p) { p->sampling.num_masks = 3; }},
      {"pen_tokens: more than the lists",
       [](BatchPlan* p) {
         p->sampling.pen_tokens.resize(kRandomPlanLimits.max_listed() + 1);
         p->sampling.pen_counts.resize(kRandomPlanLimits.max_listed() + 1);
         p->sampling.pen_offsets = {0, static_cast<int32_t>(kRandomPlanLimits.max_listed()) + 1,
                                    static_cast<int32_t>(kRandomPlanLimits.max_listed()) + 1};
       }},
      {"adj_tokens: more than the sequences",
       [](BatchPlan* p) {
         p->sampling.adj_tokens.resize(kRandomPlanLimits.max_adjustments() + 1);
         p->sampling.adj_values.resize(kRandomPlanLimits.max_adjustments() + 1);
         p->sampling.adj_offsets[2] = static_cast<int32_t>(kRandomPlanLimits.max_adjustments()) + 1;
       }},
      {"max_blocks: more than the longest",
       [](BatchPlan* p) {
         p->max_blocks = 17;
         p->block_tables.assign(2 * 17, 0);
       }},
      {"num_masks: more masks than rows", [](BatchPlan* p) { p->sampling.num_masks = -1; }},
      {"masks has 9 entries instead of 10", [](BatchPlan* p) { p->sampling.masks.pop_back(); }},
      {"mask_row has 1", [](BatchPlan* p) { p->sampling.mask_row.pop_back(); }},
      {"mask_row[0] is 1", [](BatchPlan* p) { p->sampling.mask_row[0] = 1; }},
      {"mask_row[1] is -2", [](BatchPlan* p) { p->sampling.mask_row[1] = -2; }},
      {"mask_penalty has 1", [](BatchPlan* p) { p->sampling.mask_penalty.pop_back(); }},
      {"mask_penalty: holds NaN",
       [](BatchPlan* p) { p->sampling.mask_penalty[0] = std::nanf(""); }},
      {"forced: candidates of a row that draws",
       [](BatchPlan* p) {
         p->sampling.forced[0] = -3;
         p->sampling.temperature[0] = 1.0F;
       }},
      {"copy_to has 0 entries instead of 1", [](BatchPlan* p) { p->copy_to.clear(); }},
      {"copy_from[0] is 64", [](BatchPlan* p) { p->copy_from[0] = 64; }},
      {"copy_to[0] is -1", [](BatchPlan* p) { p->copy_to[0] = -1; }},
      {"copy_to: a block is in two pairs", [](BatchPlan* p) { p->copy_to[0] = p->copy_from[0]; }},
      {"copy_from: more copies than sequences",
       [](BatchPlan* p) {
         p->copy_from.assign(7, 0);
         p->copy_to = {1, 2, 3, 4, 5, 6, 7};
       }},
      {"adj_values: holds NaN", [](BatchPlan* p) { p->sampling.adj_values[0] = std::nanf(""); }},
  };
  for (const Breakage& breakage : breakages) {
    StepPlan plan = SmallPlan();
    breakage.damage(&plan.groups[0]);
    const auto decoded = DecodeStepPlan(EncodeStepPlan(plan), kRandomPlanLimits);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(decoded.status().message(), HasSubstr(breakage.expected));
    EXPECT_THAT(decoded.status().message(), HasSubstr("group 0"));
  }
  StepPlan plan = SmallPlan();
  plan.groups.pop_back();
  EXPECT_THAT(DecodeStepPlan(EncodeStepPlan(plan), kRandomPlanLimits).status().message(),
              HasSubstr("1 groups instead of 2"));
}

TEST(StepPlanCodec, RefusesResultsThatDisagreeWithThemselves) {
  NodeStepResult result{.step_id = 1, .group_ids = {0}, .groups = {{.token = {5}, .logprob = {0}}}};
  EXPECT_THAT(
      DecodeNodeStepResult(EncodeNodeStepResult(result), kRandomPlanLimits).status().message(),
      HasSubstr("rank has 0 entries instead of 1"));
  result.groups[0].rank = {1};
  EXPECT_TRUE(DecodeNodeStepResult(EncodeNodeStepResult(result), kRandomPlanLimits).ok());
  result.groups[0].token = {300};
  EXPECT_FALSE(DecodeNodeStepResult(EncodeNodeStepResult(result), kRandomPlanLimits).ok());
  result.groups[0].token = {5};
  result.group_ids = {2};
  EXPECT_FALSE(DecodeNodeStepResult(EncodeNodeStepResult(result), kRandomPlanLimits).ok());
}

TEST(StepPlanCodec, RefusesReportsThatNoRankWouldWrite) {
  const struct {
    const char* expected;
    std::vector<RankReport> reports;
  } cases[] = {
      {"rank[0] is 4", {{.rank = 4}}},
      {"rank[0] is -1", {{.rank = -1}}},
      {"rank: must ascend", {{.rank = 1}, {.rank = 1}}},
      {"step_seconds: not a time", {{.step_seconds = -1}}},
      {"step_seconds: not a time", {{.step_seconds = std::nanf("")}}},
      {"collective_seconds: not a time", {{.collective_seconds = {0, 0, HUGE_VALF}}}},
      {"expert_rows: negative", {{.expert_rows = -1}}},
      {"moved_bytes: negative", {{.moved_bytes = -1}}},
  };
  for (const auto& [expected, reports] : cases) {
    const auto decoded =
        DecodeNodeStepResult(EncodeNodeStepResult({.ranks = reports}), kRandomPlanLimits);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << expected;
    EXPECT_THAT(decoded.status().message(), HasSubstr(expected));
  }
}

}  // namespace
}  // namespace tessera
