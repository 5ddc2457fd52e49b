// Which layouts a plan lists, in which order, and how it is printed.
#include "engine/planning/layout_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/planning/plan_report.h"
#include "gmock/gmock.h"
#include "tests/engine/planning/configs.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

PlanRequest RequestFor(int32_t gpus, const std::string& gpu) {
  PlanRequest request;
  request.gpus = gpus;
  request.gpu = Gpu(gpu);
  return request;
}

std::vector<LayoutEstimate> Plan(const ModelConfig& config, const PlanRequest& request) {
  const auto layouts = PlanLayouts(config, request);
  EXPECT_TRUE(layouts.ok()) << layouts.status();
  return layouts.ok() ? *layouts : std::vector<LayoutEstimate>();
}

const LayoutEstimate& Find(const std::vector<LayoutEstimate>& layouts, int tp, int dp, bool ep) {
  const auto found = std::find_if(layouts.begin(), layouts.end(), [&](const LayoutEstimate& e) {
    return e.tensor_parallel == tp && e.data_parallel == dp && e.expert_parallel == ep;
  });
  EXPECT_NE(found, layouts.end());
  return found == layouts.end() ? layouts.front() : *found;
}

// The memory of an H100 (80e9 bytes), 0.9 of it used, less 58,961,213,440 bytes of weights and
// 984,412,676 of buffers (memory_model_test.cc), leaves 12,054,373,884 bytes; 48,128 per token.
TEST(LayoutPlanTest, LargeMoeOnEightGpusByHand) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const auto layouts = Plan(config, RequestFor(8, "h100"));
  EXPECT_EQ(layouts.size(), 8U);  // TP 1, 2, 4, 8, with and without expert parallelism
  const LayoutEstimate& tensor = Find(layouts, 8, 1, false);
  EXPECT_TRUE(tensor.fits);
  EXPECT_EQ(tensor.weights_bytes_per_rank, 58'961'213'440);
  EXPECT_EQ(tensor.buffer_bytes_per_rank, 984'412'676);
  EXPECT_EQ(tensor.kv_bytes_per_token_per_rank, 48'128);
  EXPECT_EQ(tensor.kv_tokens, 250'464);
  EXPECT_NEAR(tensor.decode_step_ms[0], 3.4265, 2e-3);
  EXPECT_NEAR(tensor.comm_bytes_per_layer_per_token, 28'672, 1e-6);
  // Whole attention on every rank: 94 x 747,668,480 + 2,489,335,808 = 72.77 GB of 72 usable.
  const LayoutEstimate& groups = Find(layouts, 1, 8, true);
  EXPECT_FALSE(groups.fits);
  EXPECT_EQ(groups.kv_tokens, 0);
  EXPECT_EQ(groups.tokens_per_s, 0);
}

// An expert of Qwen3-235B-A22B has 3 x 4096 x 1536 weights of 2 bytes, in 94 layers.
TEST(LayoutPlanTest, CopiesOfExpertsTakeMemoryWhereExpertsAreWhole) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  PlanRequest request = RequestFor(16, "h100");
  const auto without = Plan(config, request);
  request.expert_replicas = 2;
  const auto with = Plan(config, request);
  constexpr int64_t kCopies = int64_t{2} * 94 * 3 * 4096 * 1536 * 2;
  const LayoutEstimate& before = Find(without, 8, 2, true);
  const LayoutEstimate& after = Find(with, 8, 2, true);
  EXPECT_EQ(after.weights_bytes_per_rank, before.weights_bytes_per_rank + kCopies);
  EXPECT_GE(after.buffer_bytes_per_rank, before.buffer_bytes_per_rank);
  EXPECT_LE(after.kv_tokens_per_group,
            before.kv_tokens_per_group - kCopies / before.kv_bytes_per_token_per_rank);
  EXPECT_EQ(after.decode_step_ms, before.decode_step_ms);
  EXPECT_EQ(Find(with, 8, 2, false).weights_bytes_per_rank,
            Find(without, 8, 2, false).weights_bytes_per_rank);
}

TEST(LayoutPlanTest, LatencyOfLargeMoeIsBestWithTensorParallelism) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  PlanRequest request = RequestFor(8, "h100");
  request.goal = PlanGoal::kLatency;
  const auto layouts = Plan(config, request);
  EXPECT_EQ(layouts[0].tensor_parallel, 8);
  EXPECT_FALSE(layouts[0].expert_parallel);
}

TEST(LayoutPlanTest, LargeMoeNeedsFp8OnFourGpus) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  PlanRequest request = RequestFor(4, "h100");
  EXPECT_FALSE(Plan(config, request)[0].fits);
  request.format = WeightFormat::kFp8;
  EXPECT_TRUE(Plan(config, request)[0].fits);
}

TEST(LayoutPlanTest, BestComesFirst) {
  for (const std::string name : {"Qwen3-0.6B", "Qwen3-30B-A3B", "Qwen3-235B-A22B"}) {
    const ModelConfig config = PublishedConfig(name);
    for (const int32_t gpus : {1, 2, 8, 16, 64}) {
      PlanRequest request = RequestFor(gpus, "h200");
      const auto throughput = Plan(config, request);
      request.goal = PlanGoal::kLatency;
      const auto latency = Plan(config, request);
      ASSERT_EQ(throughput.size(), latency.size());
      for (size_t i = 1; i < throughput.size(); ++i) {
        EXPECT_GE(throughput[i - 1].fits, throughput[i].fits);
        EXPECT_GE(latency[i - 1].fits, latency[i].fits);
        if (throughput[i].fits) {
          EXPECT_GE(throughput[i - 1].tokens_per_s, throughput[i].tokens_per_s);
        }
        if (latency[i].fits) {
          EXPECT_LE(latency[i - 1].decode_step_ms[0], latency[i].decode_step_ms[0]);
        }
      }
    }
  }
}

TEST(LayoutPlanTest, EveryLayoutIsDistinctAndUsesAllGpus) {
  const auto layouts = Plan(PublishedConfig("Qwen3-30B-A3B"), RequestFor(64, "h100"));
  for (size_t i = 0; i < layouts.size(); ++i) {
    EXPECT_EQ(layouts[i].tensor_parallel * layouts[i].data_parallel, 64);
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(layouts[i].tensor_parallel == layouts[j].tensor_parallel &&
                   layouts[i].expert_parallel == layouts[j].expert_parallel);
    }
  }
}

TEST(LayoutPlanTest, UpTo256Ranks) {
  for (const std::string gpu : {"h100", "b200", "l40s"}) {
    for (const auto& layout : Plan(PublishedConfig("Qwen3-235B-A22B"), RequestFor(128, gpu))) {
      EXPECT_GT(layout.prefill_tokens_per_s, 0);
      EXPECT_GE(layout.max_batched_tokens, 64);
    }
  }
  EXPECT_FALSE(Plan(PublishedConfig("Qwen3-0.6B"), RequestFor(256, "a100")).empty());
}

TEST(LayoutPlanTest, MoreGpusOrMemoryHoldMoreTokens) {
  const ModelConfig config = PublishedConfig("Qwen3-30B-A3B");
  int64_t last = 0;
  for (const int32_t gpus : {1, 2, 4, 8, 16}) {
    const auto layouts = Plan(config, RequestFor(gpus, "h100"));
    const int64_t tokens = Find(layouts, gpus, 1, false).kv_tokens;
    EXPECT_GE(tokens, last) << gpus;
    EXPECT_GT(Find(Plan(config, RequestFor(gpus, "h200")), gpus, 1, false).kv_tokens, tokens);
    last = tokens;
  }
  PlanRequest request = RequestFor(4, "h100");
  request.gpu_memory_utilization = 0.8;
  EXPECT_LT(Plan(config, request)[0].kv_tokens, Plan(config, RequestFor(4, "h100"))[0].kv_tokens);
}

TEST(LayoutPlanTest, SizesThatDoNotDivideAreRefusedWithThoseThatDo) {
  const ModelConfig config = PublishedConfig("Qwen3-235B-A22B");
  const auto seven = PlanLayouts(config, RequestFor(7, "h100"));
  ASSERT_EQ(seven.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(seven.status().message()),
              HasSubstr("that work: 1, 2, 3, 4, 6, 8, 12, 16"));
  for (const int32_t gpus : {0, -1, 257}) {
    const auto plan = PlanLayouts(config, RequestFor(gpus, "h100"));
    ASSERT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr("1 to 256"));
  }
}

TEST(LayoutPlanTest, NumbersOutOfRangeAreRefused) {
  const ModelConfig config = PublishedConfig("Qwen3-0.6B");
  PlanRequest request = RequestFor(1, "h100");
  request.context = 40'961;
  EXPECT_THAT(std::string(PlanLayouts(config, request).status().message()), HasSubstr("40960"));
  request.context = 0;
  EXPECT_FALSE(PlanLayouts(config, request).ok());
  request = RequestFor(1, "h100");
  request.gpu_memory_utilization = 1.5;
  EXPECT_FALSE(PlanLayouts(config, request).ok());
  request = RequestFor(1, "h100");
  request.max_batched_tokens = 1;
  EXPECT_FALSE(PlanLayouts(config, request).ok());
}

TEST(LayoutPlanTest, NamesOfGpusAndGoals) {
  for (const GpuSpec& gpu : GpuTable()) EXPECT_EQ(Gpu(std::string(gpu.name)).name, gpu.name);
  EXPECT_EQ(Gpu("H100").name, "h100");
  EXPECT_THAT(std::string(FindGpu("h99").status().message()),
              HasSubstr("h100, h200, b200, a100, l40s"));
  EXPECT_EQ(*ParsePlanGoal("latency"), PlanGoal::kLatency);
  EXPECT_EQ(*ParsePlanGoal("throughput"), PlanGoal::kThroughput);
  EXPECT_FALSE(ParsePlanGoal("speed").ok());
}

TEST(LayoutPlanTest, ConfigFromAFolderOrAFile) {
  const auto folder = LoadPlanConfig(TESSERA_NANO_MODEL);
  const auto file = LoadPlanConfig(std::string(TESSERA_NANO_MODEL) + "/config.json");
  ASSERT_TRUE(folder.ok() && file.ok());
  EXPECT_EQ(*folder, *file);
  EXPECT_FALSE(LoadPlanConfig("/nowhere/at/all").ok());
}

PlanReport ReportFor(const std::string& model, int32_t gpus) {
  PlanReport report{.model = model, .request = RequestFor(gpus, "h100")};
  report.layouts = Plan(PublishedConfig(model), report.request);
  return report;
}

TEST(PlanReportTest, JsonHasEveryMember) {
  const PlanReport report = ReportFor("Qwen3-235B-A22B", 8);
  const auto json = nlohmann::json::parse(PlanJson(report));
  EXPECT_EQ(json["model"], "Qwen3-235B-A22B");
  EXPECT_EQ(json["gpu"], "h100");
  EXPECT_EQ(json["dtype"], "bfloat16");
  EXPECT_FALSE(json.contains("expert_placement"));
  ASSERT_EQ(json["layouts"].size(), report.layouts.size());
  for (size_t i = 0; i < report.layouts.size(); ++i) {
    const auto& layout = json["layouts"][i];
    EXPECT_EQ(layout["tensor_parallel"], report.layouts[i].tensor_parallel);
    EXPECT_EQ(layout["data_parallel"], report.layouts[i].data_parallel);
    EXPECT_EQ(layout["expert_parallel"], report.layouts[i].expert_parallel);
    EXPECT_EQ(layout["fits"], report.layouts[i].fits);
    EXPECT_EQ(layout["weights_bytes_per_rank"], report.layouts[i].weights_bytes_per_rank);
    EXPECT_EQ(layout["kv_bytes_per_token_per_rank"], report.layouts[i].kv_bytes_per_token_per_rank);
    EXPECT_EQ(layout["kv_tokens"], report.layouts[i].kv_tokens);
    EXPECT_NEAR(layout["decode_step_ms"]["1"], report.layouts[i].decode_step_ms[0], 1e-3);
    EXPECT_NEAR(layout["decode_step_ms"]["32"], report.layouts[i].decode_step_ms[1], 1e-3);
    EXPECT_NEAR(layout["decode_step_ms"]["128"], report.layouts[i].decode_step_ms[2], 1e-3);
    EXPECT_TRUE(layout["prefill_tokens_per_s"].is_number());
    EXPECT_TRUE(layout["comm_bytes_per_layer_per_token"].is_number());
  }
}

TEST(PlanReportTest, TableHasOneRowPerLayout) {
  PlanReport report = ReportFor("Qwen3-30B-A3B", 2);
  const std::string text = PlanTable(report);
  EXPECT_THAT(text, HasSubstr("Qwen3-30B-A3B, bfloat16 weights, on 2 x H100"));
  EXPECT_THAT(text, HasSubstr("   2    1  no"));
  EXPECT_THAT(text, HasSubstr("   1    2 yes"));
  EXPECT_THAT(text, Not(HasSubstr("busiest rank")));
  report.experts = ExpertPlan{.num_ranks = 2, .slots_per_rank = 64};
  EXPECT_THAT(PlanTable(report), HasSubstr("busiest rank"));
}

}  // namespace
}  // namespace tessera
