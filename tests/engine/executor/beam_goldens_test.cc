// Beam searches equal those of transformers: texts, order and scores, on every backend and layout,
// alone and in company, with blocks that are short, shared or forgotten.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/executor/local_executor.h"
#include "engine/text/tokenizer.h"
#include "kernels/ops.h"
#include "tests/engine/fake_executor.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 4;
constexpr int32_t kMaxLen = 48;
// Sums in float32 lie so close to those in float64. What is decided by less may differ.
constexpr double kTolerance = 1e-4;

struct Text {
  std::vector<int32_t> tokens;
  double score = 0;
  FinishReason reason = FinishReason::kStop;
};

struct Golden {
  std::string name;
  std::string model;
  GenerateRequest request;
  std::vector<Text> texts;
  double gap = 0;
};

BeamEarlyStopping EarlyStopping(const nlohmann::json& value) {
  if (value.is_string()) return BeamEarlyStopping::kNever;
  return value.get<bool>() ? BeamEarlyStopping::kYes : BeamEarlyStopping::kNo;
}

Golden GoldenOf(const nlohmann::json& all, const nlohmann::json& json) {
  Golden golden{.name = json.dump().substr(0, 160),
                .model = json.at("model"),
                .gap = json.at("decision_gap")};
  GenerateRequest& request = golden.request;
  all.at("prompts").at(json.at("prompt").get<size_t>()).get_to(request.prompt_ids);
  request.n = json.at("num_return_sequences");
  request.stopping.max_tokens = json.at("max_new_tokens").get<int32_t>();
  all.at("eos_sets").at(json.at("eos").get<size_t>()).get_to(request.stopping.stop_token_ids);
  request.stopping.ignore_eos = true;  // of the model
  request.beams = {.width = json.at("num_beams"),
                   .length_penalty = json.at("length_penalty"),
                   .early_stopping = EarlyStopping(json.at("early_stopping"))};
  for (const nlohmann::json& text : json.at("result")) {
    golden.texts.push_back(
        {text.at("tokens"), text.at("score"),
         text.at("finish") == "length" ? FinishReason::kLength : FinishReason::kStop});
  }
  return golden;
}

std::vector<Golden> LoadGoldens() {
  std::ifstream file(ReferenceModelDir("../beam-goldens.json"));
  const auto json = nlohmann::json::parse(file);
  std::vector<Golden> goldens;
  for (const nlohmann::json& one : json.at("cases")) goldens.push_back(GoldenOf(json, one));
  return goldens;
}

struct Setting {
  std::string backend = "cpu";
  LayoutOptions layout;
  int32_t num_blocks = 4096;
  int32_t max_num_seqs = 32;
  bool prefix_cache = true;
  int32_t stride = 1;  // of the cases
  int32_t most_tokens = kMaxLen;
};

std::unique_ptr<Engine> StartEngine(const std::string& model, const Setting& setting) {
  EngineOptions options;
  options.model.model_dir = ReferenceModelDir(model);
  options.model.backend = setting.backend;
  options.model.dtype = DType::kF32;
  options.model.num_threads = 1;
  options.model.layout = setting.layout;
  options.model.max_model_len = kMaxLen;
  options.scheduler.block_size = kBlockSize;
  options.scheduler.max_num_seqs = setting.max_num_seqs;
  options.scheduler.max_num_batched_tokens = 64;
  options.scheduler.max_prefill_chunk = 16;
  options.scheduler.enable_prefix_cache = setting.prefix_cache;
  const auto config = LoadModelConfig(options.model.model_dir);
  auto executor = CreateLocalExecutor(
      options.model,
      {.block_size = kBlockSize, .max_num_batched_tokens = 64, .max_model_len = kMaxLen}, *config,
      nullptr);
  TESSERA_CHECK(executor.ok());
  options.kv_cache_bytes =
      setting.num_blocks * (*executor)->memory().kv_block_bytes * setting.layout.tensor_parallel;
  auto engine =
      Engine::Create(options, *config, *Tokenizer::WithoutText(), *std::move(executor), {});
  TESSERA_CHECK(engine.ok());
  return *std::move(engine);
}

// A text that a search cannot be blamed for: a difference below the tolerance decided.
void ExpectTexts(const Golden& golden, const RecordingSink& sink) {
  SCOPED_TRACE(golden.name);
  for (size_t i = 0; i < golden.texts.size(); ++i) {
    const auto choice = static_cast<int32_t>(i);
    const auto finish = sink.finish(choice);
    ASSERT_TRUE(finish.has_value()) << "choice " << i;
    ASSERT_TRUE(finish->beam_score.has_value());
    EXPECT_NEAR(*finish->beam_score, golden.texts[i].score, kTolerance);
    if (golden.gap < kTolerance) continue;
    EXPECT_EQ(sink.tokens(choice), golden.texts[i].tokens) << "choice " << i;
    EXPECT_EQ(finish->reason, golden.texts[i].reason);
  }
}

EngineStats ExpectGoldens(const std::string& model, const Setting& setting) {
  const std::unique_ptr<Engine> engine = StartEngine(model, setting);
  std::vector<std::pair<Golden, std::shared_ptr<RecordingSink>>> asked;
  int32_t index = 0;
  for (const Golden& golden : LoadGoldens()) {
    if (golden.model != model || *golden.request.stopping.max_tokens > setting.most_tokens ||
        index++ % setting.stride != 0) {
      continue;
    }
    asked.emplace_back(golden, std::make_shared<RecordingSink>());
    const auto id = engine->Submit(golden.request, asked.back().second);
    EXPECT_TRUE(id.ok()) << id.status();
  }
  EXPECT_FALSE(asked.empty());
  for (const auto& [golden, sink] : asked) {
    const absl::Status status = sink->Wait();
    EXPECT_TRUE(status.ok()) << status;
    ExpectTexts(golden, *sink);
  }
  EXPECT_TRUE(engine->Drain(absl::Now() + absl::Seconds(30)).ok());
  return engine->stats();
}

const std::vector<std::string> kModels = {"dense", "dense-tied", "moe"};

TEST(BeamGoldens, EqualTransformers) {
  for (const std::string& model : kModels) {
    for (const char* backend : {"cpu", "ref", "queued"}) {
      SCOPED_TRACE(absl::StrCat(model, " ", backend));
      ExpectGoldens(model, {.backend = backend, .stride = backend == std::string("cpu") ? 1 : 4});
    }
  }
}

TEST(BeamGoldens, WithScarceBlocks) {
  for (const bool prefix_cache : {false, true}) {
    const EngineStats stats =
        ExpectGoldens("dense", {.num_blocks = 30, .max_num_seqs = 7, .prefix_cache = prefix_cache});
    EXPECT_GT(stats.num_preemptions, 0);
    EXPECT_EQ(stats.prefix_cache_hits > 0, prefix_cache);
  }
}

TEST(BeamGoldens, OnEveryLayout) {
  const LayoutOptions layouts[] = {{2, 1, false, "auto"},
                                   {1, 2, false, "auto"},
                                   {2, 2, false, "auto"},
                                   {2, 1, true, "allreduce"},
                                   {2, 2, true, "alltoall"}};
  for (const LayoutOptions& layout : layouts) {
    SCOPED_TRACE(absl::StrCat("tp ", layout.tensor_parallel, " dp ", layout.data_parallel));
    ExpectGoldens("moe", {.layout = layout, .num_blocks = 60, .stride = 5});
  }
}

TEST(BeamGoldens, OnEmulatedGpus) {
  const std::vector<std::string_view> backends = LinkedBackends();
  if (std::find(backends.begin(), backends.end(), "cuda-emulated") == backends.end()) {
    GTEST_SKIP() << "no emulated GPUs here";
  }
  ExpectGoldens("dense", {.backend = "cuda-emulated", .stride = 3, .most_tokens = 8});
}

}  // namespace
}  // namespace tessera
