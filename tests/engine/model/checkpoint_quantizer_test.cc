#include "engine/model/checkpoint_quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/model/checkpoint_check.h"
#include "engine/quantization/dequantize.h"
#include "kernels/core/text_file.h"
#include "tests/engine/checkpoint/model_folder.h"
#include "tests/engine/quantization/stored_tensors.h"
#include "tests/support/checkpoint_writer.h"

namespace tessera {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

struct Format {
  const char* name;
  CodeFormat format;
  const char* layout;
  Json weights;
  double error;  // root of mean square, relative
};

std::vector<Format> Formats() {
  return {{"int8",
           CodeFormat::kInt8,
           "int-quantized",
           {{"num_bits", 8}, {"type", "int"}, {"strategy", "channel"}},
           0.01},
          {"int4",
           CodeFormat::kInt4,
           "pack-quantized",
           {{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", 32}},
           0.1},
          {"fp8",
           CodeFormat::kFp8,
           "float-quantized",
           {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}},
           0.03}};
}

// A plain folder and what it is quantised to.
struct Folders {
  ModelFolder plain;
  ModelFolder quantized;
  std::vector<std::string> kept;

  void Quantize(const Format& format, const Json& config) {
    const auto parsed = LoadModelConfig(plain.path());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto checkpoint = Checkpoint::Open(plain.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto written =
        WriteQuantizedCheckpoint(*parsed, **checkpoint, {.format = format.format, .threads = 3},
                                 quantized.Path("model.safetensors"), nullptr);
    ASSERT_TRUE(written.ok()) << written.status();
    kept = *written;
    Json with = config;
    with["quantization_config"] = {
        {"quant_method", "compressed-tensors"},
        {"format", format.layout},
        {"ignore", kept},
        {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", format.weights}}}}}};
    quantized.Write("config.json", with.dump());
  }
};

void ExpectClean(const ModelFolder& folder) {
  const auto config = LoadModelConfig(folder.path());
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const CheckpointReport names = VerifyCheckpoint(*config, **checkpoint);
  EXPECT_TRUE(names.ok()) << names.status();
  const CheckpointReport values = VerifyValues(*config, **checkpoint, nullptr);
  EXPECT_TRUE(values.ok()) << values.status();
}

Json ConfigOf(const std::string& name) {
  return Json::parse(
      *ReadTextFile(TESSERA_TEST_DATA "/reference/models/" + name + "/config.json", 1 << 20));
}

TEST(CheckpointQuantizerTest, WritesWhatIsLoadedWithTheValuesNearby) {
  for (const Format& format : Formats()) {
    SCOPED_TRACE(format.name);
    Folders folders;
    const Json json = ConfigOf("dense-tied");
    ASSERT_TRUE(WriteRandomCheckpoint(json.dump(), folders.plain.path(), {}).ok());
    folders.Quantize(format, json);
    ExpectClean(folders.quantized);
    const auto config = LoadModelConfig(folders.quantized.path());
    const auto checkpoint = Checkpoint::Open(folders.quantized.path());
    const auto rules = ModuleRules::Create(config->quantization);
    const StoredTensors plain = ReadTensors(folders.plain.Path("model.safetensors"));
    const std::string name = "model.layers.1.self_attn.q_proj.weight";
    const TensorBytes& weight = plain.at(name);
    const auto module = FindMatrix(*config, **checkpoint, *rules, {name, weight.shape});
    ASSERT_TRUE(module.ok()) << module.status();
    ASSERT_TRUE(module->scheme.has_value());
    const auto count = static_cast<size_t>(weight.shape[0] * weight.shape[1]);
    std::vector<float> values(count);
    ASSERT_TRUE(Dequantize(*module, {0, weight.shape[0], 0, weight.shape[1]},
                           {DType::kF32, reinterpret_cast<std::byte*>(values.data())})
                    .ok());
    double error = 0;
    double total = 0;
    for (size_t i = 0; i < count; ++i) {
      const float exact = BF16ToFloat(weight.Get<uint16_t>(i));
      error += std::pow(values[i] - exact, 2);
      total += std::pow(exact, 2);
    }
    EXPECT_GT(error, 0);
    EXPECT_LT(std::sqrt(error / total), format.error);
    // What stays plain is the same bytes.
    const StoredTensors written = ReadTensors(folders.quantized.Path("model.safetensors"));
    EXPECT_EQ(written.at("model.embed_tokens.weight").bytes,
              plain.at("model.embed_tokens.weight").bytes);
    EXPECT_EQ(written.at("model.norm.weight").bytes, plain.at("model.norm.weight").bytes);
  }
}

TEST(CheckpointQuantizerTest, ExpertsOfBothLayouts) {
  for (const bool fused : {false, true}) {
    for (const Format& format : Formats()) {
      SCOPED_TRACE(std::string(format.name) + (fused ? " fused" : ""));
      Folders folders;
      const Json json = ConfigOf("moe");
      ASSERT_TRUE(
          WriteRandomCheckpoint(json.dump(), folders.plain.path(), {.fused_experts = fused}).ok());
      folders.Quantize(format, json);
      ExpectClean(folders.quantized);
      EXPECT_THAT(folders.kept, Contains("model.layers.0.mlp.gate"));
      // Experts have 48 columns in down_proj, no multiple of 32.
      const std::string narrow = "model.layers.0.mlp.experts.3.down_proj";
      if (format.format == CodeFormat::kInt4) {
        EXPECT_THAT(folders.kept, Contains(narrow));
      } else {
        EXPECT_THAT(folders.kept, Not(Contains(narrow)));
      }
    }
  }
}

TEST(CheckpointQuantizerTest, RefusesWhatIsQuantizedOrBroken) {
  Folders folders;
  const Json json = ConfigOf("dense-tied");
  ASSERT_TRUE(WriteRandomCheckpoint(json.dump(), folders.plain.path(), {}).ok());
  folders.Quantize(Formats()[0], json);
  const auto config = LoadModelConfig(folders.quantized.path());
  const auto checkpoint = Checkpoint::Open(folders.quantized.path());
  const std::string path = folders.plain.Path("again.safetensors");
  EXPECT_THAT(WriteQuantizedCheckpoint(*config, **checkpoint, {}, path, nullptr).status().message(),
              HasSubstr("is quantised already (compressed-tensors: int8"));

  StoredTensors tensors = ReadTensors(folders.plain.Path("model.safetensors"));
  tensors.at("model.layers.0.mlp.up_proj.weight").Set<uint16_t>(7, 0x7FC0);
  const ModelFolder broken;
  broken.Write("model.safetensors", FileOf(tensors));
  const auto opened = Checkpoint::Open(broken.path());
  const auto plain_config = LoadModelConfig(folders.plain.path());
  EXPECT_THAT(
      WriteQuantizedCheckpoint(*plain_config, **opened, {}, path, nullptr).status().message(),
      HasSubstr("\"model.layers.0.mlp.up_proj.weight\": values are NaN or infinite"));
  EXPECT_FALSE(ReadTextFile(path, 1 << 20).ok());
}

}  // namespace
}  // namespace tessera
