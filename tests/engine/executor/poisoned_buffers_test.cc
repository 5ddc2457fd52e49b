// What an earlier step left in buffers and KV blocks, and what pads a step, reaches no result.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/executor/local_executor.h"
#include "engine/executor/sequence_runner.h"
#include "engine/model/model_config.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr int32_t kMaxTokens = 256;
constexpr int32_t kPoison = 287;  // the last token of the reference models

// A copy of a reference model in which the embedding of kPoison is NaN.
class PoisonedModel {
 public:
  explicit PoisonedModel(const std::string& name)
      : path_(testing::TempDir() + "poisoned-" + name + "-" + std::to_string(getpid())) {
    std::filesystem::copy(ReferenceModelDir(name), path_);
    const std::string file = path_ + "/model.safetensors";
    std::ifstream in(file, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
    const size_t entry = bytes.find("\"model.embed_tokens.weight\"");
    const std::string key = "\"data_offsets\":[";
    const size_t offsets = bytes.find(key, entry) + key.size();
    char* next = nullptr;
    const auto begin = std::strtoull(bytes.data() + offsets, &next, 10);
    const auto end = std::strtoull(next + 1, nullptr, 10);
    const size_t row_bytes = (end - begin) / (kPoison + 1);
    std::memset(bytes.data() + sizeof(header_bytes) + header_bytes + end - row_bytes, 0xFF,
                row_bytes);
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }
  ~PoisonedModel() { std::filesystem::remove_all(path_); }
  PoisonedModel(const PoisonedModel&) = delete;
  PoisonedModel& operator=(const PoisonedModel&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::unique_ptr<Executor> Load(const std::string& dir, const char* backend,
                               const LayoutOptions& layout) {
  const absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
  EXPECT_TRUE(config.ok()) << config.status();
  const ModelOptions options{.model_dir = dir,
                             .backend = backend,
                             .dtype = DType::kF32,
                             .num_threads = 1,
                             .layout = layout};
  auto executor = CreateLocalExecutor(
      options,
      {.block_size = kBlockSize, .max_num_batched_tokens = kMaxTokens, .max_model_len = kMaxTokens},
      *config, nullptr);
  EXPECT_TRUE(executor.ok()) << executor.status();
  EXPECT_TRUE((*executor)->AllocateKv(kMaxTokens / kBlockSize).ok());
  return *std::move(executor);
}

// The logits of a prompt and some decode steps.
std::vector<float> Logits(Executor& executor) {
  SequenceRunner runner(executor, kBlockSize);
  std::vector<int32_t> next = {3, 50, 7, 120, 9};
  std::vector<float> all;
  for (int step = 0; step < 5; ++step) {
    const auto result = runner.Append({.token_ids = next, .return_logits = true});
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return all;
    all.insert(all.end(), result->logits.begin(), result->logits.end());
    next = {result->token[0]};
  }
  return all;
}

TEST(PoisonedBuffers, ReachNoResult) {
  const LayoutOptions layouts[] = {{}, {2, 1, false, "allreduce"}, {2, 2, true, "alltoall"}};
  for (const char* name : {"dense", "moe"}) {
    const PoisonedModel model(name);
    for (const char* backend : {"queued", "ref", "cpu"}) {
      for (const LayoutOptions& layout : layouts) {
        if (layout.expert_parallel && std::string(name) == "dense") continue;
        SCOPED_TRACE(std::string(name) + " " + backend + " tp " +
                     std::to_string(layout.tensor_parallel));
        const std::vector<float> clean = Logits(*Load(model.path(), backend, layout));
        const auto executor = Load(model.path(), backend, layout);
        SequenceRunner poison(*executor, kBlockSize);
        const std::vector<int32_t> tokens(kMaxTokens - 1, kPoison);
        const auto poisoned = poison.Append({.token_ids = tokens, .all_rows = true});
        ASSERT_TRUE(poisoned.ok()) << poisoned.status();
        EXPECT_EQ(poisoned->token.back(), -1);  // the poison is one
        EXPECT_EQ(Logits(*executor), clean);
      }
    }
  }
}

}  // namespace
}  // namespace tessera
