#include "engine/model/checkpoint_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/text_file.h"
#include "tests/engine/checkpoint/model_folder.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

ModelConfig LoadReferenceConfig(const std::string& name) {
  return LoadModelConfig(TESSERA_TEST_DATA "/reference/models/" + name).value();
}

struct Stored {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype = "BF16";
};

std::vector<Stored> AsStored(const std::vector<ExpectedTensor>& expected) {
  std::vector<Stored> stored;
  for (const ExpectedTensor& tensor : expected) stored.push_back({tensor.name, tensor.shape});
  return stored;
}

// A file with these tensors, filled with arbitrary bytes.
void WriteFile(const ModelFolder& folder, const std::string& name,
               const std::vector<Stored>& tensors) {
  std::vector<std::string> entries;
  int64_t end = 0;
  for (const Stored& tensor : tensors) {
    int64_t bytes = tensor.dtype == "F32" ? 4 : tensor.dtype == "I8" ? 1 : 2;
    for (const int64_t dim : tensor.shape) bytes *= dim;
    entries.push_back(absl::StrCat("\"", tensor.name, "\":{\"dtype\":\"", tensor.dtype,
                                   "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                                   "],\"data_offsets\":[", end, ",", end + bytes, "]}"));
    end += bytes;
  }
  folder.Write(name, SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries, ","), "}"),
                                      static_cast<size_t>(end)));
}

CheckpointReport Verify(const ModelConfig& config, const std::vector<Stored>& tensors) {
  const ModelFolder folder;
  WriteFile(folder, "model.safetensors", tensors);
  const auto checkpoint = Checkpoint::Open(folder.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return VerifyCheckpoint(config, **checkpoint);
}

TEST(CheckpointCheckTest, ReferenceModelsAndTheBundledOneAreClean) {
  std::vector<std::string> folders = {TESSERA_NANO_MODEL};
  const std::string models = TESSERA_TEST_DATA "/reference/models";
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    folders.push_back(entry.path().string());
  }
  ASSERT_THAT(folders, SizeIs(16));
  for (const std::string& folder : folders) {
    const auto config = LoadModelConfig(folder);
    ASSERT_TRUE(config.ok()) << config.status();
    const auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const CheckpointReport report = VerifyCheckpoint(*config, **checkpoint);
    EXPECT_TRUE(report.ok()) << report.status();
    EXPECT_THAT(report.warnings, IsEmpty());
    EXPECT_EQ((*checkpoint)->bytes_read(), 0);
    const bool stored_twice =
        config->tie_word_embeddings && (*checkpoint)->Contains("lm_head.weight");
    if (!stored_twice) {
      EXPECT_EQ((*checkpoint)->total_bytes(), 2 * config->num_parameters()) << folder;
    }
  }
}

TEST(CheckpointCheckTest, CountsTensorsOfReleasedModels) {
  const auto count = [](const std::string& name) {
    const std::string path = TESSERA_TEST_DATA "/reference/configs/" + name;
    return ExpectedTensors(ParseModelConfig(*ReadTextFile(path, 1 << 20), path).value()).size();
  };
  EXPECT_EQ(count("Qwen3-0.6B.config.json"), 310U);
  EXPECT_EQ(count("Qwen3-32B.config.json"), 707U);
  EXPECT_EQ(count("Qwen3-30B-A3B.config.json"), 18867U);
}

TEST(CheckpointCheckTest, NamesWhatIsMissingMisshapenOrMistyped) {
  const ModelConfig config = LoadReferenceConfig("moe");
  const std::vector<Stored> good = AsStored(ExpectedTensors(config));
  EXPECT_TRUE(Verify(config, good).ok());

  std::vector<Stored> missing = good;
  const std::string gone = missing[5].name;
  missing.erase(missing.begin() + 5);
  CheckpointReport report = Verify(config, missing);
  ASSERT_THAT(report.errors, SizeIs(1));
  EXPECT_THAT(report.errors[0], HasSubstr("model.safetensors: tensor \"" + gone + "\": missing"));
  EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);

  std::vector<Stored> swapped = good;
  std::swap(swapped[2].shape[0], swapped[2].shape[1]);
  report = Verify(config, swapped);
  ASSERT_THAT(report.errors, SizeIs(1));
  EXPECT_THAT(report.errors[0], HasSubstr("q_proj.weight\": has shape [64, 128], config.json asks "
                                          "for [128, 64]"));

  std::vector<Stored> mistyped = good;
  mistyped[0].dtype = "I8";
  mistyped[1].dtype = "F32";  // fine
  report = Verify(config, mistyped);
  ASSERT_THAT(report.errors, SizeIs(1));
  EXPECT_THAT(report.errors[0], HasSubstr("embed_tokens.weight\": has dtype I8"));
}

TEST(CheckpointCheckTest, SurplusIsAnErrorExceptATiedHeadAndRopeTables) {
  const ModelConfig config = LoadReferenceConfig("dense-tied");
  std::vector<Stored> tensors = AsStored(ExpectedTensors(config));
  tensors.push_back({"lm_head.weight", {288, 64}});
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {16}});
  EXPECT_TRUE(Verify(config, tensors).ok());
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", {128}});
  const CheckpointReport report = Verify(config, tensors);
  EXPECT_THAT(report.errors, ElementsAre(HasSubstr("tensor \"model.layers.0.self_attn.q_proj.bias\""
                                                   ": not part of the model")));

  const ModelConfig untied = LoadReferenceConfig("dense");
  EXPECT_THAT(Verify(untied, AsStored(ExpectedTensors(config))).errors,
              ElementsAre(HasSubstr("lm_head.weight")));
}

// As in transformers 5.
TEST(CheckpointCheckTest, AStoredHeadWinsOverTheTieAndOneAloneIsTheEmbedding) {
  const ModelConfig config = LoadReferenceConfig("dense-tied");
  const std::vector<Stored> tied = AsStored(ExpectedTensors(config));
  const auto open = [](const ModelFolder& folder, const std::vector<Stored>& tensors) {
    WriteFile(folder, "model.safetensors", tensors);
    return Checkpoint::Open(folder.path()).value();
  };
  const ModelFolder folder;
  std::vector<Stored> tensors = tied;
  // The bytes of the file are a pattern that repeats: two bytes between them make these two differ.
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {1}});
  tensors.push_back({"lm_head.weight", tied[0].shape});
  const auto differs = open(folder, tensors);
  EXPECT_TRUE(HasOwnHead(config, *differs).value());
  EXPECT_EQ(EmbeddingName(config, *differs), "model.embed_tokens.weight");
  EXPECT_FALSE(HasOwnHead(config, *open(folder, tied)).value());

  tensors = tied;
  tensors[0].name = "lm_head.weight";
  const auto alone = open(folder, tensors);
  EXPECT_FALSE(HasOwnHead(config, *alone).value());
  EXPECT_EQ(EmbeddingName(config, *alone), "lm_head.weight");
  EXPECT_TRUE(VerifyCheckpoint(config, *alone).ok());

  ModelConfig untied = config;
  untied.tie_word_embeddings = false;
  EXPECT_THAT(VerifyCheckpoint(untied, *alone).errors,
              ElementsAre(HasSubstr("\"model.embed_tokens.weight\": missing")));
  const std::string bundled = TESSERA_TEST_DATA "/reference/models/dense-tied";
  EXPECT_FALSE(HasOwnHead(config, **Checkpoint::Open(bundled)).value());
}

TEST(CheckpointCheckTest, ListsAreBounded) {
  const ModelConfig config = LoadReferenceConfig("moe-128-top8");
  std::vector<Stored> tensors;
  for (int i = 0; i < 100; ++i) tensors.push_back({absl::StrCat("other.", i), {1}});
  const CheckpointReport report = Verify(config, tensors);
  EXPECT_EQ(report.num_errors, static_cast<int64_t>(ExpectedTensors(config).size()) + 100);
  EXPECT_THAT(report.errors, SizeIs(20));
  EXPECT_THAT(report.status().message(), HasSubstr("more)"));
}

TEST(CheckpointCheckTest, AcceptsFusedExpertsOfTheRightShapeOnly) {
  const ModelConfig config = LoadReferenceConfig("moe");  // E 8, I 48, H 64
  std::vector<Stored> tensors;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    if (tensor.name.find(".experts.") == std::string::npos) {
      tensors.push_back({tensor.name, tensor.shape});
    }
  }
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    tensors.push_back({FusedGateUpName(layer), {8, 96, 64}});
    tensors.push_back({FusedDownName(layer), {8, 64, 48}});
  }
  const CheckpointReport good = Verify(config, tensors);
  EXPECT_TRUE(good.ok()) << good.status();
  EXPECT_THAT(good.warnings, IsEmpty());
  tensors.back().shape = {8, 48, 64};
  EXPECT_THAT(Verify(config, tensors).errors,
              ElementsAre(HasSubstr("model.layers.2.mlp.experts.down_proj")));
  tensors.pop_back();
  EXPECT_THAT(Verify(config, tensors).errors, ElementsAre(HasSubstr("missing")));
}

}  // namespace
}  // namespace tessera
