// Placements proposed from expert loads.
#include "engine/planning/expert_plan.h"

#include <cmath>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "tests/engine/planning/configs.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

ModelConfig Nano() {
  const auto config = LoadPlanConfig(TESSERA_NANO_MODEL);  // 4 layers, 16 experts
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

// Loads that fall like 1 / (i + 1), shuffled.
ExpertCounts SkewedCounts(const ModelConfig& config, uint32_t seed) {
  std::mt19937 random(seed);
  ExpertCounts counts;
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    std::vector<double> loads;
    for (int32_t i = 0; i < config.num_experts; ++i) loads.push_back(std::floor(1e6 / (i + 1)));
    std::shuffle(loads.begin(), loads.end(), random);
    counts.push_back(loads);
  }
  return counts;
}

TEST(ExpertPlanTest, ProposalBalancesSkewedLoads) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  constexpr uint32_t kSeed = 7;
  const auto plan = PlanExperts(config, SkewedCounts(config, kSeed), 8, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->slots_per_rank, 18);
  EXPECT_EQ(plan->layers.size(), 48U);
  EXPECT_GT(plan->worst_before, 1.5) << "seed " << kSeed;
  EXPECT_LT(plan->worst_after, 1.15) << "seed " << kSeed;
  for (const LayerPlacement& layer : plan->layers) {
    EXPECT_LE(layer.ratio_after, layer.ratio_before);
    const std::set<int32_t> placed(layer.slot_experts.begin(), layer.slot_experts.end());
    for (int32_t expert = 0; expert < 128; ++expert) EXPECT_TRUE(placed.contains(expert));
  }
}

// One expert takes all: it gets a replica on every rank, so all ranks share the load.
TEST(ExpertPlanTest, ReplicasShareOneHotExpert) {
  const ModelConfig config = Nano();
  ExpertCounts counts(4, std::vector<double>(16, 0));
  for (auto& layer : counts) layer[5] = 1'000;
  const auto plan = PlanExperts(config, counts, 4, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_DOUBLE_EQ(plan->worst_before, 4);
  EXPECT_DOUBLE_EQ(plan->worst_after, 1);
}

TEST(ExpertPlanTest, ImpossibleSizesAreRefused) {
  const ModelConfig config = Nano();
  const ExpertCounts counts = SkewedCounts(config, 1);
  EXPECT_THAT(std::string(PlanExperts(config, counts, 3, 0).status().message()),
              HasSubstr("sizes that work: 1, 2, 4, 8, 16"));
  EXPECT_THAT(std::string(PlanExperts(config, counts, 4, 13).status().message()),
              HasSubstr("room for 0 to 12"));
  EXPECT_FALSE(PlanExperts(config, counts, 4, -1).ok());
  EXPECT_FALSE(PlanExperts(config, counts, 0, 0).ok());
  EXPECT_TRUE(PlanExperts(config, counts, 4, 12).ok());
  EXPECT_FALSE(PlanExperts(PublishedConfig("Qwen3-0.6B"), {}, 2, 0).ok());
}

TEST(ExpertPlanTest, ReadsCounts) {
  const ModelConfig config = Nano();
  std::string layer = "[0";
  for (int i = 1; i < 16; ++i) layer += "," + std::to_string(i * 10);
  layer += "]";
  const std::string text =
      R"({"layers": [)" + layer + "," + layer + "," + layer + "," + layer + "]}";
  const auto counts = ParseExpertCounts(text, "stats.json", config);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(counts->size(), 4U);
  EXPECT_EQ((*counts)[3][15], 150);
}

// What a server measured is what the planner reads; dense layers stay empty.
TEST(ExpertPlanTest, ReadsWhatAServerWrites) {
  ModelConfig config = Nano();
  config.layer_is_moe[1] = false;
  ExpertLoads loads;
  for (int64_t layer = 0; layer < 4; ++layer) {
    loads.layers.emplace_back();
    if (layer == 1) continue;
    for (int64_t e = 0; e < 16; ++e) loads.layers.back().choices.push_back(1000 * layer + e);
  }
  const auto counts = ParseExpertCounts(FormatExpertCounts(loads), "stats.json", config);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_TRUE((*counts)[1].empty());
  EXPECT_EQ((*counts)[3][15], 3015);
}

TEST(ExpertPlanTest, BadCountsAreRefusedByName) {
  const ModelConfig config = Nano();
  for (const std::string text :
       {"", "[]", "{}", R"({"layers": 1})", R"({"layers": []})", R"({"layers": [1, 2, 3, 4]})",
        R"({"layers": [[1], [1], [1], [1]]})",
        R"({"layers": [["1",0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], [], [], []]})",
        R"({"layers": [[-1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], [], [], []]})"}) {
    const auto counts = ParseExpertCounts(text, "stats.json", config);
    EXPECT_EQ(counts.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(counts.status().message()), HasSubstr("stats.json")) << text;
  }
  EXPECT_FALSE(LoadExpertCounts("/nowhere/stats.json", config).ok());
}

// Dense layers between MoE layers have empty lists.
TEST(ExpertPlanTest, DenseLayersHaveNoExperts) {
  const auto config =
      LoadPlanConfig(std::string(TESSERA_TEST_DATA) + "/reference/models/moe-sparse-step-2");
  ASSERT_TRUE(config.ok()) << config.status();
  std::string text;
  for (const bool is_moe : config->layer_is_moe) {
    text += text.empty() ? "" : ",";
    text += is_moe ? "[5,1,1,1,1,1,1,5]" : "[]";
  }
  const auto counts = ParseExpertCounts("{\"layers\":[" + text + "]}", "stats.json", *config);
  ASSERT_TRUE(counts.ok()) << counts.status();
  const auto plan = PlanExperts(*config, *counts, 2, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_LT(plan->layers.size(), config->layer_is_moe.size());
  EXPECT_FALSE(plan->layers.empty());
}

}  // namespace
}  // namespace tessera
