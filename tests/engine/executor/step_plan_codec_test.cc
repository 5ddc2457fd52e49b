#include "engine/executor/step_plan_codec.h"

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tessera {
namespace {

using testing::HasSubstr;

constexpr PlanLimits kLimits{.num_groups = 2,
                             .num_ranks = 4,
                             .vocab_size = 300,
                             .block_size = 4,
                             .num_blocks = 64,
                             .max_tokens = 128,
                             .max_num_seqs = 6,
                             .max_positions = 64};

constexpr int kMaskWords = 10;  // of 300 ids

class PlanMaker {
 public:
  explicit PlanMaker(uint32_t seed) : random_(seed) {}

  StepPlan Plan() {
    StepPlan plan;
    plan.step_id = random_();
    plan.return_logits = Below(2) == 1;
    for (int g = 0; g < kLimits.num_groups; ++g) plan.groups.push_back(Batch(Below(5)));
    return plan;
  }

  BatchPlan Batch(int sequences) {
    BatchPlan plan;
    plan.cu_seqlens = {0};
    plan.sampling.pen_offsets = {0};
    plan.sampling.adj_offsets = {0};
    plan.max_blocks = sequences == 0 ? 0 : kLimits.max_positions / kLimits.block_size;
    for (int s = 0; s < sequences; ++s) AddSequence(&plan);
    return plan;
  }

  NodeStepResult Result() {
    NodeStepResult result{.step_id = random_(), .group_ids = {0, 1}, .groups = {}};
    for (int g = 0; g < 2; ++g) {
      BatchResult group;
      const int rows = Below(4);
      group.num_top = Below(3);
      for (int i = 0; i < rows; ++i) {
        group.token.push_back(Below(301) - 1);
        group.logprob.push_back(-1.5F * static_cast<float>(i));
        group.rank.push_back(i);
      }
      group.top_tokens.assign(rows * group.num_top, 7);
      group.top_logprobs.assign(rows * group.num_top, -2.0F);
      if (Below(2) == 1) group.logits.assign(rows * kLimits.vocab_size, 0.5F);
      result.groups.push_back(group);
    }
    for (int rank = Below(3); rank < kLimits.num_ranks; rank += 1 + Below(2)) {
      RankReport report{.rank = rank, .step_seconds = 0.5F, .expert_rows = Below(100)};
      report.collective_seconds[Below(kNumCollectiveOps)] = 0.25F;
      result.ranks.push_back(report);
    }
    return result;
  }

 private:
  int Below(int n) { return static_cast<int>(random_() % n); }

  void AddSequence(BatchPlan* plan) {
    const int context = 1 + Below(kLimits.max_positions);
    const int rows = 1 + Below(std::min(context, 20));
    const size_t table = plan->block_tables.size();
    for (int b = 0; b < plan->max_blocks; ++b) plan->block_tables.push_back(Below(64));
    for (int p = context - rows; p < context; ++p) {
      const bool drawn = Below(4) == 0;
      plan->token_ids.push_back(drawn ? -1 : Below(kLimits.vocab_size));
      plan->token_source.push_back(drawn ? Below(kLimits.max_tokens) : -1);
      plan->positions.push_back(p);
      plan->slot_mapping.push_back(plan->block_tables[table + p / 4] * 4 + p % 4);
    }
    plan->cu_seqlens.push_back(plan->num_tokens());
    plan->context_lens.push_back(context);
    if (Below(3) > 0) AddRow(plan);
  }

  void AddRow(BatchPlan* plan) {
    plan->logits_rows.push_back(plan->num_tokens() - 1);
    SamplingPlan& s = plan->sampling;
    s.forced.push_back(Below(301) - 1);
    for (auto* values : {&s.temperature, &s.top_p, &s.min_p, &s.repetition_penalty,
                         &s.presence_penalty, &s.frequency_penalty}) {
      values->push_back(static_cast<float>(Below(100)) / 50);
    }
    s.top_k.push_back(Below(50));
    s.seed.push_back(static_cast<int64_t>(random_()) << 20);
    s.position.push_back(Below(64));
    s.num_logprobs.push_back(Below(5) - 1);
    const auto row = static_cast<int32_t>(s.penalty_slot.size());
    s.penalty_slot.push_back(Below(3) == 0 ? -1 : row);
    s.penalty_reset.push_back(s.penalty_slot.back() < 0 ? 0 : Below(2));
    for (int i = s.penalty_reset.back() * Below(4); i > 0; --i) {
      s.pen_tokens.push_back(Below(300));
      s.pen_counts.push_back(Below(9));
    }
    for (int i = Below(4); i > 0; --i) {
      s.adj_tokens.push_back(Below(300));
      s.adj_values.push_back(-std::numeric_limits<float>::infinity());
    }
    s.pen_offsets.push_back(static_cast<int32_t>(s.pen_tokens.size()));
    s.adj_offsets.push_back(static_cast<int32_t>(s.adj_tokens.size()));
    if (Below(2) == 0) {
      ++s.num_masks;
      for (int i = 0; i < kMaskWords; ++i) s.masks.push_back(static_cast<int32_t>(random_()));
    }
    s.mask_row.push_back(Below(s.num_masks + 1) - 1);
  }

  std::mt19937 random_;
};

// A plan with two sequences and two rows in its first group, to be broken in one place.
StepPlan SmallPlan() {
  for (uint32_t seed = 0;; ++seed) {
    StepPlan plan = PlanMaker(seed).Plan();
    const BatchPlan& batch = plan.groups[0];
    if (batch.num_sequences() == 2 && batch.num_logits() == 2 &&
        batch.sampling.penalty_slot == std::vector<int32_t>{0, 1} &&
        batch.sampling.penalty_reset[0] == 1 && !batch.sampling.pen_tokens.empty() &&
        !batch.sampling.adj_tokens.empty() && batch.sampling.num_masks == 1) {
      return plan;
    }
  }
}

TEST(StepPlanCodec, PlansSurviveTheRoundTrip) {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    const std::string bytes = EncodeStepPlan(PlanMaker(seed).Plan());
    const auto decoded = DecodeStepPlan(bytes, kLimits);
    ASSERT_TRUE(decoded.ok()) << "seed " << seed << ": " << decoded.status();
    EXPECT_EQ(EncodeStepPlan(*decoded), bytes) << "seed " << seed;
  }
}

TEST(StepPlanCodec, EveryFieldArrives) {
  const StepPlan plan = SmallPlan();
  const auto decoded = DecodeStepPlan(EncodeStepPlan(plan), kLimits);
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
}

TEST(StepPlanCodec, IdleGroupsMayBeEmpty) {
  StepPlan plan = SmallPlan();
  plan.groups[1] = {};
  const auto decoded = DecodeStepPlan(EncodeStepPlan(plan), kLimits);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->groups[1].cu_seqlens, std::vector<int32_t>{0});
  EXPECT_EQ(decoded->groups[1].sampling.pen_offsets, std::vector<int32_t>{0});
}

TEST(StepPlanCodec, ResultsSurviveTheRoundTrip) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::string bytes = EncodeNodeStepResult(PlanMaker(seed).Result());
    const auto decoded = DecodeNodeStepResult(bytes, kLimits);
    ASSERT_TRUE(decoded.ok()) << "seed " << seed << ": " << decoded.status();
    EXPECT_EQ(EncodeNodeStepResult(*decoded), bytes) << "seed " << seed;
  }
}

TEST(StepPlanCodec, EveryTruncationIsRefused) {
  const std::string plan = EncodeStepPlan(SmallPlan());
  for (size_t size = 0; size < plan.size(); ++size) {
    EXPECT_FALSE(DecodeStepPlan(std::string_view(plan).substr(0, size), kLimits).ok()) << size;
  }
  EXPECT_THAT(DecodeStepPlan(plan + "x", kLimits).status().message(), HasSubstr("too many"));
  const std::string result = EncodeNodeStepResult(PlanMaker(3).Result());
  for (size_t size = 0; size < result.size(); ++size) {
    EXPECT_FALSE(DecodeNodeStepResult(std::string_view(result).substr(0, size), kLimits).ok());
  }
}

TEST(StepPlanCodec, FlippedBytesAreRefusedOrStayWithinTheLimits) {
  std::mt19937 random(11);
  const std::string original = EncodeStepPlan(SmallPlan());
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = original;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    const auto plan = DecodeStepPlan(bytes, kLimits);
    refused += plan.ok() ? 0 : 1;
    EXPECT_TRUE(!plan.ok() || ValidateStepPlan(*plan, kLimits).ok());
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
         p->sampling.pen_tokens.resize(kLimits.max_listed() + 1);
         p->sampling.pen_counts.resize(kLimits.max_listed() + 1);
         p->sampling.pen_offsets = {0, static_cast<int32_t>(kLimits.max_listed()) + 1,
                                    static_cast<int32_t>(kLimits.max_listed()) + 1};
       }},
      {"adj_tokens: more than the sequences",
       [](BatchPlan* p) {
         p->sampling.adj_tokens.resize(kLimits.max_adjustments() + 1);
         p->sampling.adj_values.resize(kLimits.max_adjustments() + 1);
         p->sampling.adj_offsets[2] = static_cast<int32_t>(kLimits.max_adjustments()) + 1;
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
      {"adj_values: holds NaN", [](BatchPlan* p) { p->sampling.adj_values[0] = std::nanf(""); }},
  };
  for (const Breakage& breakage : breakages) {
    StepPlan plan = SmallPlan();
    breakage.damage(&plan.groups[0]);
    const auto decoded = DecodeStepPlan(EncodeStepPlan(plan), kLimits);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(decoded.status().message(), HasSubstr(breakage.expected));
    EXPECT_THAT(decoded.status().message(), HasSubstr("group 0"));
  }
  StepPlan plan = SmallPlan();
  plan.groups.pop_back();
  EXPECT_THAT(DecodeStepPlan(EncodeStepPlan(plan), kLimits).status().message(),
              HasSubstr("1 groups instead of 2"));
}

TEST(StepPlanCodec, RefusesResultsThatDisagreeWithThemselves) {
  NodeStepResult result{.step_id = 1, .group_ids = {0}, .groups = {{.token = {5}, .logprob = {0}}}};
  EXPECT_THAT(DecodeNodeStepResult(EncodeNodeStepResult(result), kLimits).status().message(),
              HasSubstr("rank has 0 entries instead of 1"));
  result.groups[0].rank = {1};
  EXPECT_TRUE(DecodeNodeStepResult(EncodeNodeStepResult(result), kLimits).ok());
  result.groups[0].token = {300};
  EXPECT_FALSE(DecodeNodeStepResult(EncodeNodeStepResult(result), kLimits).ok());
  result.groups[0].token = {5};
  result.group_ids = {2};
  EXPECT_FALSE(DecodeNodeStepResult(EncodeNodeStepResult(result), kLimits).ok());
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
    const auto decoded = DecodeNodeStepResult(EncodeNodeStepResult({.ranks = reports}), kLimits);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument) << expected;
    EXPECT_THAT(decoded.status().message(), HasSubstr(expected));
  }
}

}  // namespace
}  // namespace tessera
