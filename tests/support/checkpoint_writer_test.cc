#include "tests/support/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/model/checkpoint_check.h"
#include "kernels/core/text_file.h"
#include "tests/bench/model_shapes.h"

namespace tessera {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string ReferenceConfig(const std::string& name) {
  return *ReadTextFile(TESSERA_TEST_DATA "/reference/models/" + name + "/config.json", 1 << 20);
}

std::string FreshFolder(const std::string& name) {
  const std::string path = testing::TempDir() + "/checkpoint_writer_" + name;
  std::filesystem::remove_all(path);
  return path;
}

// Writes, opens and verifies.
std::unique_ptr<Checkpoint> WriteAndOpen(const std::string& config, const std::string& folder,
                                         const CheckpointWriterOptions& options) {
  const absl::Status written = WriteRandomCheckpoint(config, folder, options);
  EXPECT_TRUE(written.ok()) << written;
  auto checkpoint = Checkpoint::Open(folder);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const CheckpointReport report = VerifyCheckpoint(LoadModelConfig(folder).value(), **checkpoint);
  EXPECT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report.warnings, IsEmpty());
  return *std::move(checkpoint);
}

std::vector<float> Values(const Checkpoint& checkpoint, std::string_view name) {
  const StoredTensor tensor = checkpoint.Find(name);
  const std::byte* data = tensor.Map().value();
  const DType dtype = *tensor.entry->dtype;
  std::vector<float> values(static_cast<size_t>(tensor.entry->num_bytes) / SizeOf(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(&values[i], data + 4 * i, 4);
      continue;
    }
    uint16_t bits = 0;
    std::memcpy(&bits, data + 2 * i, 2);
    values[i] = dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
  }
  return values;
}

TEST(CheckpointWriterTest, TheSameModelInEveryTypeAndShard) {
  const std::string config = ReferenceConfig("moe-sparse-step-2");
  const auto bf16 = WriteAndOpen(config, FreshFolder("bf16"), {.seed = 7});
  const auto f16 = WriteAndOpen(config, FreshFolder("f16"), {.dtype = DType::kF16, .seed = 7});
  const auto f32 =
      WriteAndOpen(config, FreshFolder("f32"), {.dtype = DType::kF32, .num_shards = 5, .seed = 7});
  const auto other = WriteAndOpen(config, FreshFolder("other"), {.seed = 8});
  EXPECT_THAT(f32->files(), SizeIs(5));
  for (const std::string_view name : bf16->names()) {
    const std::vector<float> values = Values(*bf16, name);
    ASSERT_EQ(values, Values(*f16, name)) << name;
    ASSERT_EQ(values, Values(*f32, name)) << name;
    ASSERT_NE(values, Values(*other, name)) << name;
  }
}

TEST(CheckpointWriterTest, ValuesHaveTheDocumentedSpread) {
  const auto checkpoint = WriteAndOpen(ReferenceConfig("dense-bias"), FreshFolder("spread"), {});
  const std::vector<float> weights = Values(*checkpoint, "model.embed_tokens.weight");
  double sum = 0;
  double squares = 0;
  for (const float value : weights) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const auto count = static_cast<double>(weights.size());
  EXPECT_NEAR(sum / count, 0, 1e-3);
  EXPECT_NEAR(std::sqrt(squares / count), 0.018, 1e-3);
  for (const float value : Values(*checkpoint, "model.norm.weight")) {
    EXPECT_NEAR(value, 1.0F, 0.125F);
  }
}

TEST(CheckpointWriterTest, FusedExpertsAndManyShards) {
  const std::string config = ReferenceConfig("moe");
  WriteAndOpen(config, FreshFolder("fused"), {.num_shards = 3, .fused_experts = true});
  const auto tensors = ExpectedTensors(ParseModelConfig(config, "config.json").value());
  const auto each = static_cast<int32_t>(tensors.size());
  EXPECT_THAT(WriteAndOpen(config, FreshFolder("each"), {.num_shards = each})->files(),
              SizeIs(tensors.size()));
  EXPECT_FALSE(
      WriteRandomCheckpoint(config, FreshFolder("too_many"), {.num_shards = each + 1}).ok());
}

TEST(CheckpointWriterTest, CopiesTheTokenizer) {
  const std::string folder = FreshFolder("tokenizer");
  WriteAndOpen(ReferenceConfig("dense"), folder, {.tokenizer_directory = TESSERA_NANO_MODEL});
  EXPECT_TRUE(std::filesystem::exists(folder + "/tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/tokenizer_config.json"));
}

TEST(ModelShapesTest, AreTheReleasedModels) {
  const auto parameters = [](std::string_view name) {
    return ParseModelConfig(ModelShapeConfig(name).value(), name).value().num_parameters();
  };
  EXPECT_EQ(parameters("qwen3-0.6b"), 596049920);
  EXPECT_EQ(parameters("qwen3-1.7b"), 1720574976);
  // 40 of 48 layers less than Qwen3-30B-A3B.
  const int64_t embedding = 2LL * 151936 * 2048 + 2048;
  EXPECT_EQ(parameters("qwen3-30b-a3b-8l"), (30532122624 - embedding) / 6 + embedding);
  EXPECT_FALSE(ModelShapeConfig("qwen3-7b"));
}

TEST(CheckpointWriterTest, RefusesWhatItCannotWrite) {
  const std::string config = ReferenceConfig("dense");
  EXPECT_FALSE(WriteRandomCheckpoint("{}", FreshFolder("bad"), {}).ok());
  EXPECT_FALSE(WriteRandomCheckpoint(config, FreshFolder("bad"), {.dtype = DType::kI8}).ok());
  EXPECT_FALSE(WriteRandomCheckpoint(config, FreshFolder("bad"), {.num_shards = 0}).ok());
  EXPECT_FALSE(WriteRandomCheckpoint(config, "/proc/none/model", {}).ok());
  EXPECT_FALSE(
      WriteRandomCheckpoint(config, FreshFolder("bad"), {.tokenizer_directory = "/proc"}).ok());
}

TEST(CheckpointWriterTest, FavouredExpertsHaveLargeRouterRows) {
  const std::string config = ReferenceConfig("moe");
  const auto plain = WriteAndOpen(config, FreshFolder("plain"), {.dtype = DType::kF32});
  const auto skewed =
      WriteAndOpen(config, FreshFolder("skewed"), {.dtype = DType::kBF16, .favoured_experts = 2});
  const std::string router = "model.layers.1.mlp.gate.weight";
  const std::vector<float> before = Values(*plain, router);
  const std::vector<float> after = Values(*skewed, router);
  const int64_t favoured = 2 * plain->Find(router).entry->shape[1];
  for (size_t i = 0; i < before.size(); ++i) {
    ASSERT_EQ(after[i], before[i] * (static_cast<int64_t>(i) < favoured ? 8 : 1)) << i;
  }
}

}  // namespace
}  // namespace tessera
