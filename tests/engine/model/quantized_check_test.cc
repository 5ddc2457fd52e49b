// Quantised checkpoints that contradict their configuration or hold what no tool writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "engine/model/checkpoint_check.h"
#include "kernels/core/text_file.h"
#include "tests/engine/checkpoint/model_folder.h"
#include "tests/engine/quantization/stored_tensors.h"
#include "tests/support/golden_files.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

struct Model {
  Json config;
  StoredTensors tensors;

  Json& quantization() { return config["quantization_config"]; }
  // Gives a module's tensor another name.
  void Rename(const std::string& from, const std::string& to) {
    tensors[to] = tensors.at(from);
    tensors.erase(from);
  }
};

Model LoadModel(const std::string& name) {
  const std::string folder = QuantizedModelDir(name);
  return {Json::parse(*ReadTextFile(folder + "/config.json", 1 << 20)),
          ReadTensors(folder + "/model.safetensors")};
}

// All errors: of the configuration, of names and shapes or, without any, of values.
std::vector<std::string> Errors(const Model& model) {
  const ModelFolder folder;
  folder.Write("config.json", model.config.dump());
  folder.Write("model.safetensors", FileOf(model.tensors));
  const auto config = LoadModelConfig(folder.path());
  if (!config.ok()) return {std::string(config.status().message())};
  const auto checkpoint = Checkpoint::Open(folder.path());
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  CheckpointReport report = VerifyCheckpoint(*config, **checkpoint);
  EXPECT_EQ((*checkpoint)->bytes_read(), 0);
  if (report.ok()) report = VerifyValues(*config, **checkpoint, nullptr);
  return report.errors;
}

std::vector<std::string> Errors(const std::string& name, const std::function<void(Model&)>& spoil) {
  Model model = LoadModel(name);
  spoil(model);
  return Errors(model);
}

constexpr char kDown[] = "model.layers.1.mlp.down_proj";
std::string Down(const std::string& suffix) { return std::string(kDown) + "." + suffix; }

void MakePlain(Model& model, const std::string& module) {
  for (auto it = model.tensors.begin(); it != model.tensors.end();) {
    it = it->first.starts_with(module + ".") ? model.tensors.erase(it) : std::next(it);
  }
}

TEST(QuantizedCheckTest, ReferenceCheckpointsAreClean) {
  EXPECT_EQ(QuantizedModels().size(), 16U);
  for (const std::string& name : QuantizedModels()) {
    EXPECT_THAT(Errors(LoadModel(name)), IsEmpty()) << name;
  }
}

TEST(QuantizedCheckTest, ListsAndTensorsMustAgree) {
  EXPECT_THAT(
      Errors("fp8-dense-partial",
             [](Model& m) { m.quantization()["modules_to_not_convert"] = {"lm_head"}; }),
      ElementsAre(HasSubstr("tensor \"" + Down("weight") +
                            "\": has dtype BF16, but by quant_method \"fp8\" of config.json "
                            "it is quantised: modules_to_not_convert does not")));
  EXPECT_THAT(
      Errors("fp8-dense", [](Model& m) { m.quantization()["modules_to_not_convert"] = {kDown}; }),
      ElementsAre(HasSubstr("tensor \"" + Down("weight") +
                            "\": is quantised, but modules_to_not_convert of config.json "
                            "excludes it with \"" +
                            kDown)));
  EXPECT_THAT(Errors("ct-w8a8-dense", [](Model& m) { m.quantization()["ignore"] = {"re:.*down"}; }),
              ElementsAre(HasSubstr("layers.0.mlp.down_proj.weight\": is quantised, but ignore"),
                          HasSubstr("layers.1.mlp.down_proj.weight\": is quantised, but ignore")));
  EXPECT_THAT(Errors("gptq4-dense",
                     [](Model& m) {
                       m.quantization()["dynamic"] = {{"-:.*1.mlp.down", {}}};
                     }),
              ElementsAre(HasSubstr("excludes it with \"-:.*1.mlp.down\"")));
  EXPECT_THAT(
      Errors("awq-dense", [](Model& m) { m.quantization()["modules_to_not_convert"] = {"1.mlp"}; }),
      testing::SizeIs(3));
}

TEST(QuantizedCheckTest, MethodsAndTensorsMustAgree) {
  const std::vector<std::string> unsaid =
      Errors("gptq4-dense", [](Model& m) { m.config.erase("quantization_config"); });
  EXPECT_EQ(unsaid.size(), 14U);
  EXPECT_THAT(unsaid[0], HasSubstr("is quantised, but config.json has no quantization_config"));
  EXPECT_THAT(Errors("gptq4-dense",
                     [](Model& m) {
                       m.quantization() = {{"quant_method", "fp8"}};
                     })[0],
              HasSubstr("is not what quant_method \"fp8\" of config.json stores"));
  // AWQ's and GPTQ's tensors have the same names and other shapes.
  EXPECT_THAT(Errors("gptq4-dense", [](Model& m) { m.quantization()["quant_method"] = "awq"; })[0],
              HasSubstr("qweight\": has shape [32, 128], config.json asks for [256, 16]"));
  EXPECT_THAT(Errors("ct-w8a8-dense",
                     [](Model& m) {
                       Json& group = m.quantization()["config_groups"]["group_0"];
                       group["weights"]["type"] = "float";
                       m.quantization()["format"] = "float-quantized";
                     })[0],
              HasSubstr("is not what quant_method \"compressed-tensors\""));
  EXPECT_THAT(Errors("ct-w4a16-dense",
                     [](Model& m) {
                       m.quantization()["config_groups"]["group_0"]["targets"] = {"re:.*attn"};
                     })[0],
              HasSubstr("no group of config.json has it as a target"));
  EXPECT_THAT(Errors("gptq8-dense", [](Model& m) { m.quantization()["bits"] = 4; })[0],
              HasSubstr("qweight\": has shape ["));
  EXPECT_THAT(Errors("gptq4-asym", [](Model& m) { m.quantization()["group_size"] = 32; })[0],
              HasSubstr("has shape [2,"));
}

TEST(QuantizedCheckTest, HeadsAndRouters) {
  EXPECT_THAT(Errors("gptq4-moe", [](Model& m) { m.quantization()["lm_head"] = true; }),
              ElementsAre(HasSubstr("tensor \"lm_head.weight\": has dtype BF16, but by")));
  // A quantised router and head, of the shapes of an expert's matrix and of nothing in the model.
  const auto head = [](Model& m) {
    m.tensors.erase("lm_head.weight");
    m.tensors["lm_head.qweight"] = MakeTensor("I32", {16, 160}, std::vector<int32_t>(16 * 160, 7));
    m.tensors["lm_head.qzeros"] = MakeTensor("I32", {1, 20}, std::vector<uint32_t>(20, 0x77777777));
    m.tensors["lm_head.scales"] = MakeTensor("F32", {1, 160}, std::vector<float>(160, 0.5F));
  };
  EXPECT_THAT(Errors("gptq4-moe", head),
              ElementsAre(HasSubstr("\"lm_head.qweight\": is quantised, but lm_head of")));
  EXPECT_THAT(Errors("gptq4-moe",
                     [&](Model& m) {
                       head(m);
                       m.quantization()["lm_head"] = true;
                     }),
              IsEmpty());
}

TEST(QuantizedCheckTest, OneFaultPerModule) {
  EXPECT_THAT(Errors("gptq4-dense", [](Model& m) { MakePlain(m, kDown); }),
              ElementsAre(HasSubstr("tensor \"" + Down("qweight") + "\": missing")));
  EXPECT_THAT(Errors("fp8-dense", [](Model& m) { m.tensors.erase(Down("weight_scale_inv")); }),
              ElementsAre(HasSubstr("tensor \"" + Down("weight_scale_inv") + "\": missing")));
  EXPECT_THAT(Errors("awq-dense", [](Model& m) { m.Rename(Down("qzeros"), Down("zeros")); }),
              ElementsAre(HasSubstr(Down("qzeros") + "\": missing"),
                          HasSubstr(Down("zeros") + "\": not part of the model")));
  EXPECT_THAT(Errors("ct-w4a16-dense",
                     [](Model& m) {
                       std::swap(m.tensors[Down("weight_scale")].shape[0],
                                 m.tensors[Down("weight_scale")].shape[1]);
                     }),
              ElementsAre(HasSubstr(Down("weight_scale") + "\": has shape [2, 256]")));
  EXPECT_THAT(
      Errors("ct-w8a8-dense", [](Model& m) { m.tensors[Down("weight_scale")].dtype = "I16"; }),
      ElementsAre(HasSubstr(Down("weight_scale") + "\": has dtype I16")));
}

TEST(QuantizedCheckTest, ValuesThatNoToolWrites) {
  EXPECT_THAT(Errors("fp8-dense", [](Model& m) { m.tensors[Down("weight")].bytes[99] = 0x7F; }),
              ElementsAre(HasSubstr("model.safetensors: tensor \"" + Down("weight") +
                                    "\": a code is NaN")));
  EXPECT_THAT(
      Errors("gptq4-desc-act", [](Model& m) { m.tensors[Down("g_idx")].Set<int32_t>(5, 2); }),
      ElementsAre(HasSubstr(Down("g_idx") + "\": says that input 5 belongs to group 2")));
  EXPECT_THAT(Errors("gptq4-dense",
                     [](Model& m) { m.tensors[Down("qzeros")].Set<uint32_t>(0, 0xFFFFFFFF); }),
              ElementsAre(HasSubstr(Down("qzeros") + "\": a zero point is stored with all bits")));
  // The second format stores what it means.
  EXPECT_THAT(Errors("gptq4-dense",
                     [](Model& m) {
                       m.quantization()["checkpoint_format"] = "gptq_v2";
                       m.tensors[Down("qzeros")].Set<uint32_t>(0, 0xFFFFFFFF);
                     }),
              IsEmpty());
  EXPECT_THAT(Errors("ct-w8a8-dense",
                     [](Model& m) { m.tensors[Down("weight_scale")].Set<uint16_t>(0, 0x7FC0); }),
              ElementsAre(HasSubstr(Down("weight_scale") + "\": a scale is NaN or infinite")));
  EXPECT_THAT(Errors("ct-w8a8-dense",
                     [](Model& m) { m.tensors[Down("weight_scale")].Set<uint16_t>(0, 0xBF80); }),
              ElementsAre(HasSubstr(Down("weight_scale") + "\": a scale is negative (-1)")));
}

// Only a quantised KV cache of ours would need them.
TEST(QuantizedCheckTest, ScalesOfKeysAndValuesAreIgnoredWhereTheyAreAnnounced) {
  const auto add = [](Model& m) {
    m.tensors["model.layers.0.self_attn.k_scale"] =
        MakeTensor("F32", {1}, std::vector<float>{0.5F});
  };
  EXPECT_THAT(Errors("ct-w8a8-dense", add), ElementsAre(HasSubstr("k_scale\": not part of")));
  EXPECT_THAT(Errors("ct-w8a8-dense",
                     [&](Model& m) {
                       add(m);
                       m.quantization()["kv_cache_scheme"] = {{"num_bits", 8}};
                     }),
              IsEmpty());
}

}  // namespace
}  // namespace tessera
