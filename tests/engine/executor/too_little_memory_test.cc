// A model that no machine holds is refused before anything of it is read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/executor/local_executor.h"
#include "engine/model/checkpoint_check.h"

namespace tessera {
namespace {

// About 1.3 TB in bfloat16.
constexpr char kConfig[] = R"({
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 1024,
  "hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 200,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128, "hidden_act": "silu",
  "rms_norm_eps": 1e-06, "max_position_embeddings": 1024, "rope_theta": 10000.0,
  "attention_bias": false, "tie_word_embeddings": false, "torch_dtype": "bfloat16"})";

// All of the data is one hole in the file.
void WriteSparse(const ModelConfig& config, const std::string& path) {
  int64_t at = 0;
  std::vector<std::string> entries;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    int64_t bytes = 2;
    for (const int64_t size : tensor.shape) bytes *= size;
    entries.push_back(absl::StrCat("\"", tensor.name, R"(":{"dtype":"BF16","shape":[)",
                                   absl::StrJoin(tensor.shape, ","), R"(],"data_offsets":[)", at,
                                   ",", at + bytes, "]}"));
    at += bytes;
  }
  const std::string header = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  std::ofstream file(path, std::ios::binary);
  const auto size = static_cast<uint64_t>(header.size());
  for (int i = 0; i < 8; ++i) file.put(static_cast<char>(size >> (8 * i)));
  file << header;
  file.close();
  std::filesystem::resize_file(path, 8 + header.size() + at);
}

TEST(TooLittleMemoryTest, IsToldBeforeLoading) {
  const std::string dir = testing::TempDir() + "tessera_too_little_memory";
  std::filesystem::create_directories(dir);
  std::ofstream(dir + "/config.json") << kConfig;
  const auto config = LoadModelConfig(dir);
  ASSERT_TRUE(config.ok()) << config.status();
  WriteSparse(*config, dir + "/model.safetensors");
  ModelOptions options;
  options.model_dir = dir;
  options.num_threads = 1;
  const absl::Time start = absl::Now();
  const auto executor = CreateLocalExecutor(
      options, {.block_size = 16, .max_num_batched_tokens = 16, .max_model_len = 64}, *config,
      nullptr);
  std::filesystem::remove_all(dir);
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kResourceExhausted) << executor.status();
  EXPECT_THAT(std::string(executor.status().message()),
              testing::AllOf(testing::HasSubstr(dir), testing::HasSubstr("memory"),
                             testing::Not(testing::HasSubstr("\n"))));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

}  // namespace
}  // namespace tessera
