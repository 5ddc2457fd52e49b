// The tokens of every layout of in-process ranks equal those of one rank that answers one request
// after the other: greedy and seeded, in mixed batches, with preemptions and prefix hits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "engine/text/tokenizer.h"
#include "kernels/core/status_macros.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 4;
constexpr int32_t kMaxLen = 80;
constexpr int32_t kRequests = 24;
// One request of the workload fills most of such a pool: two that run together cannot both finish.
constexpr int32_t kScarceBlocks = kMaxLen / kBlockSize;
constexpr int32_t kAmpleBlocks = 64 * kScarceBlocks;

// One entry per choice.
using Tokens = std::vector<std::vector<int32_t>>;

class Answer final : public ResponseSink {
 public:
  explicit Answer(int32_t choices) : tokens_(choices) {}

  void OnTokens(TokenDelta delta) override {
    absl::MutexLock lock(&mutex_);
    std::vector<int32_t>& all = tokens_[delta.choice];
    all.insert(all.end(), delta.token_ids.begin(), delta.token_ids.end());
  }
  void OnDone(const absl::Status& status, const FinishInfo&) override {
    absl::MutexLock lock(&mutex_);
    status_ = status;
    done_ = true;
  }
  absl::StatusOr<Tokens> Wait() {
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&done_), absl::Minutes(2))) {
      return absl::DeadlineExceededError("no end after two minutes");
    }
    if (!status_.ok()) return status_;
    return tokens_;
  }

 private:
  absl::Mutex mutex_;
  Tokens tokens_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

// Two of three prompts begin alike; every second request is seeded.
GenerateRequest MakeRequest(int32_t i, int32_t vocab_size) {
  constexpr int32_t kPrefix = 25;
  const auto token = [vocab_size](int32_t salt, int32_t at) {
    return 3 + (salt * 7919 + at * 104729 + at * at * 31) % (vocab_size - 3);
  };
  GenerateRequest request;
  const int32_t length = kPrefix + 1 + (i * 7) % 19;
  for (int32_t t = 0; t < length; ++t) {
    const bool shared = i % 3 != 2 && t < kPrefix;
    request.prompt_ids.push_back(token(shared ? 0 : i + 1, t));
  }
  request.sampling.temperature = i % 2 == 0 ? 0.0F : 0.9F;
  request.sampling.top_k = i % 4 == 1 ? 30 : 0;
  request.sampling.top_p = i % 4 == 3 ? 0.9F : 1.0F;
  request.sampling.repetition_penalty = i % 5 == 0 ? 1.2F : 1.0F;
  request.sampling.seed = 1000 + i;
  request.stopping.max_tokens = 16 + (i * 5) % 17;
  request.stopping.ignore_eos = true;
  request.n = i == 7 ? 2 : 1;
  return request;
}

struct Load {
  int32_t num_blocks = kScarceBlocks;
  int32_t max_num_seqs = 6;
  bool prefix_cache = true;
  int32_t at_a_time = kRequests;
  int32_t num_threads = 1;  // 0: one per core
};

struct Outcome {
  std::vector<Tokens> answers;
  EngineStats stats;
};

absl::StatusOr<std::unique_ptr<Engine>> StartEngine(const ModelConfig& config,
                                                    const std::string& dir,
                                                    const LayoutOptions& layout, const Load& load) {
  EngineOptions options;
  options.model = {.model_dir = dir,
                   .backend = "cpu",
                   .dtype = DType::kF32,
                   .num_threads = load.num_threads,
                   .max_model_len = kMaxLen,
                   .layout = layout};
  options.scheduler.block_size = kBlockSize;
  options.scheduler.max_num_seqs = load.max_num_seqs;
  options.scheduler.max_num_batched_tokens = 48;
  options.scheduler.max_prefill_chunk = 16;
  options.scheduler.enable_prefix_cache = load.prefix_cache;
  ASSIGN_OR_RETURN(
      std::unique_ptr<Executor> executor,
      CreateLocalExecutor(options.model,
                          {.block_size = kBlockSize,
                           .max_num_batched_tokens = options.scheduler.max_num_batched_tokens,
                           .max_model_len = kMaxLen},
                          config, nullptr));
  options.kv_cache_bytes =
      load.num_blocks * executor->memory().kv_block_bytes * layout.tensor_parallel;
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::WithoutText());
  return Engine::Create(options, config, tokenizer, std::move(executor), {});
}

absl::StatusOr<Outcome> Answers(const std::string& dir, const LayoutOptions& layout,
                                const Load& load) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(dir));
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, StartEngine(config, dir, layout, load));
  Outcome outcome;
  std::vector<std::shared_ptr<Answer>> answers;
  const auto take_answers = [&]() -> absl::Status {
    for (const std::shared_ptr<Answer>& answer : answers) {
      ASSIGN_OR_RETURN(Tokens tokens, answer->Wait());
      outcome.answers.push_back(std::move(tokens));
    }
    answers.clear();
    return absl::OkStatus();
  };
  for (int32_t i = 0; i < kRequests; ++i) {
    const GenerateRequest request = MakeRequest(i, config.vocab_size);
    answers.push_back(std::make_shared<Answer>(request.n));
    RETURN_IF_ERROR(engine->Submit(request, answers.back()).status());
    if ((i + 1) % load.at_a_time == 0) RETURN_IF_ERROR(take_answers());
  }
  outcome.stats = engine->stats();
  return outcome;
}

std::string NameOf(const LayoutOptions& layout) {
  return absl::StrCat("TP", layout.tensor_parallel, " x DP", layout.data_parallel,
                      layout.expert_parallel ? " EP " : " ", layout.moe_comm);
}

std::vector<LayoutOptions> Layouts(bool has_experts) {
  std::vector<LayoutOptions> layouts = {
      {1, 1, false, "auto"}, {2, 1, false, "auto"}, {4, 1, false, "auto"}, {8, 1, false, "auto"},
      {2, 2, false, "auto"}, {2, 4, false, "auto"}, {1, 8, false, "auto"}};
  if (!has_experts) return layouts;
  for (const char* comm : {"allreduce", "alltoall", "auto"}) {
    for (const auto& [tp, dp] :
         std::vector<std::pair<int32_t, int32_t>>{{2, 1}, {4, 1}, {8, 1}, {2, 2}, {2, 4}, {1, 8}}) {
      layouts.push_back({tp, dp, true, comm});
    }
  }
  return layouts;
}

// The tiny checkpoints have 4 query heads; nano has 8, and 4 KV heads that TP8 replicates.
bool IsRefused(const std::string& model, const LayoutOptions& layout) {
  return model != "nano" && layout.tensor_parallel == 8;
}

std::string DirOf(const std::string& model) {
  return model == "nano" ? TESSERA_NANO_MODEL : ReferenceModelDir(model);
}

std::vector<std::string> Models() {
  std::vector<std::string> models = ReferenceModels();
  models.emplace_back("nano");
  return models;
}

class LayoutMatrix : public testing::TestWithParam<std::string> {};

TEST_P(LayoutMatrix, EveryLayoutWritesTheTokensOfOneRank) {
  const std::string dir = DirOf(GetParam());
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto expected = Answers(
      dir, {},
      {.num_blocks = kAmpleBlocks, .max_num_seqs = 1, .prefix_cache = false, .at_a_time = 1});
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(expected->answers.size(), kRequests);
  EXPECT_EQ(expected->stats.num_preemptions, 0);
  EXPECT_EQ(expected->stats.prefix_cache_hits, 0);
  // Texts that say the same whatever is computed would equal each other on any layout.
  std::set<Tokens> different(expected->answers.begin(), expected->answers.end());
  EXPECT_EQ(different.size(), kRequests);
  // By turns all ranks share one thread, or have what the machine has.
  int32_t num_threads = 1;
  for (const LayoutOptions& layout : Layouts(config->num_experts > 0)) {
    num_threads = 1 - num_threads;
    SCOPED_TRACE(absl::StrCat(NameOf(layout), ", threads ", num_threads));
    const auto outcome = Answers(dir, layout, {.num_threads = num_threads});
    if (IsRefused(GetParam(), layout)) {
      EXPECT_EQ(outcome.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(
          std::string(outcome.status().message()),
          testing::AllOf(testing::HasSubstr("tensor parallel size 8"),
                         testing::HasSubstr("4 query heads"), testing::HasSubstr(": 1, 2, 4")));
      continue;
    }
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(outcome->answers, expected->answers);
    EXPECT_GT(outcome->stats.num_preemptions, 0);
    EXPECT_GT(outcome->stats.prefix_cache_hits, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, LayoutMatrix, testing::ValuesIn(Models()),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

struct Refusal {
  LayoutOptions layout;
  std::vector<std::string> message;  // parts of it
};

TEST(LayoutRefusal, NamesTheSizesOfNanoThatWork) {
  const std::vector<Refusal> refusals = {
      {{3, 1, false, "auto"}, {"tensor parallel size 3", "8 query heads", ": 1, 2, 4, 8"}},
      {{16, 1, false, "auto"}, {"tensor parallel size 16", "8 query heads", ": 1, 2, 4, 8"}},
      {{1, 3, true, "auto"}, {"3 ranks", "16 experts", "tensor parallel 1: 1, 2, 4, 8, 16"}},
      {{2, 16, true, "auto"}, {"32 ranks", "16 experts", "tensor parallel 2: 1, 2, 4, 8"}},
      {{2, 1, false, "alltoall"}, {"--enable-expert-parallel"}},
      {{2, 1, true, "carrier pigeon"}, {"auto, allreduce or alltoall"}},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(NameOf(refusal.layout));
    const absl::Status status = Answers(TESSERA_NANO_MODEL, refusal.layout, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const std::string& part : refusal.message) {
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
    }
  }
}

}  // namespace
}  // namespace tessera
