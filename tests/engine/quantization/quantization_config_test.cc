#include "engine/quantization/quantization_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/time/clock.h"
#include "engine/quantization/module_rules.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

struct Parsed {
  std::optional<QuantizationConfig> config;
  std::string error;
};

Parsed Parse(const Json& root) {
  const auto fields = JsonFields::Parse(root.dump(), "config.json");
  EXPECT_TRUE(fields.ok());
  Parsed parsed{.config = ReadQuantization(*fields), .error = {}};
  parsed.error = std::string(fields->status().message());
  return parsed;
}

Parsed ParseInner(const Json& inner) { return Parse({{"quantization_config", inner}}); }

Json Fp8() {
  return {{"quant_method", "fp8"},
          {"activation_scheme", "dynamic"},
          {"fmt", "e4m3"},
          {"weight_block_size", {128, 64}}};
}
Json Gptq() { return {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}}; }
Json Awq() {
  return {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}, {"version", "gemm"}};
}
Json CompressedTensors(const Json& weights, const std::string& format) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
}
Json Int4() {
  return {{"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", 32}};
}

// What is said when `key` of `inner` is set to `value`.
std::string With(Json inner, const Json::json_pointer& key, const Json& value) {
  inner[key] = value;
  return ParseInner(inner).error;
}

TEST(QuantizationConfigTest, ReadsWhatToolsWrite) {
  EXPECT_FALSE(Parse(Json::object()).config);
  EXPECT_FALSE(Parse({{"quantization_config", nullptr}}).config);
  const auto text = [](const Parsed& parsed) {
    EXPECT_EQ(parsed.error, "");
    return parsed.config ? SchemeText(parsed.config->groups.at(0).scheme) : "nothing";
  };
  EXPECT_EQ(text(ParseInner(Fp8())), "fp8 in blocks of 128 x 64");
  EXPECT_EQ(text(ParseInner({{"quant_method", "fp8"}})), "fp8 with a scale per matrix");
  EXPECT_EQ(text(ParseInner(Gptq())), "int4 with zeros in groups of 128");
  Json whole = Gptq();
  whole["group_size"] = -1;
  whole["bits"] = 8;
  EXPECT_EQ(text(ParseInner(whole)), "int8 with zeros in one group per row");
  EXPECT_EQ(text(ParseInner(Awq())), "int4 with zeros in groups of 128");
  EXPECT_EQ(text(ParseInner({{"quant_method", "awq"},
                             {"w_bit", 4},
                             {"q_group_size", 64},
                             {"version", "GEMM"},
                             {"zero_point", true}})),
            "int4 with zeros in groups of 64");
  EXPECT_EQ(text(ParseInner(CompressedTensors(Int4(), "pack-quantized"))), "int4 in groups of 32");
  EXPECT_EQ(text(Parse({{"compression_config",
                         CompressedTensors({{"num_bits", 8}, {"strategy", "channel"}},
                                           "int-quantized")}})),
            "int8 with a scale per row");
  const Json block = {
      {"num_bits", 8}, {"type", "float"}, {"strategy", "block"}, {"block_structure", "64x128"}};
  EXPECT_EQ(text(ParseInner(CompressedTensors(block, "float-quantized"))),
            "fp8 in blocks of 64 x 128");
  Json rounded = Gptq();
  rounded["quant_method"] = "auto-round";
  rounded["packing_format"] = "auto_round:auto_gptq";
  EXPECT_EQ(text(ParseInner(rounded)), "int4 with zeros in groups of 128");
}

TEST(QuantizationConfigTest, RefusesMethodsByName) {
  for (const char* const method : {"bitsandbytes", "hqq", "aqlm", "torchao", "quark", "modelopt",
                                   "fbgemm_fp8", "eetq", "exl3", "bitblas", "mxfp4"}) {
    EXPECT_THAT(ParseInner({{"quant_method", method}}).error,
                HasSubstr(std::string("config.json: quantization_config asks for quant_method \"") +
                          method + "\", which is not supported"));
  }
  EXPECT_THAT(Parse({{"quantization", {{"group_size", 64}, {"bits", 4}}}}).error,
              HasSubstr("\"mlx\""));
  EXPECT_THAT(ParseInner(Json::object()).error, HasSubstr("\"unnamed\""));
}

TEST(QuantizationConfigTest, RefusesVariantsByKey) {
  using P = Json::json_pointer;
  EXPECT_THAT(With(Fp8(), P("/activation_scheme"), "static"), HasSubstr("activation_scheme"));
  EXPECT_THAT(With(Fp8(), P("/fmt"), "e5m2"), HasSubstr("fmt is \"e5m2\""));
  EXPECT_THAT(With(Fp8(), P("/scale_fmt"), "ue8m0"), HasSubstr("scale_fmt is \"ue8m0\""));
  EXPECT_THAT(With(Fp8(), P("/weight_block_size"), {128}), HasSubstr("two numbers"));
  EXPECT_THAT(With(Fp8(), P("/weight_block_size"), {0, 128}), HasSubstr("from 1"));
  for (const int bits : {2, 3, 5})
    EXPECT_THAT(With(Gptq(), P("/bits"), bits), HasSubstr("bits is"));
  EXPECT_THAT(With(Gptq(), P("/bits"), nullptr), HasSubstr("bits is missing"));
  EXPECT_THAT(With(Gptq(), P("/group_size"), 0), HasSubstr("group_size is 0"));
  EXPECT_THAT(With(Gptq(), P("/pack_dtype"), "int16"), HasSubstr("pack_dtype"));
  EXPECT_THAT(With(Gptq(), P("/is_marlin_format"), true), HasSubstr("Marlin"));
  EXPECT_THAT(With(Gptq(), P("/checkpoint_format"), "marlin"), HasSubstr("checkpoint_format"));
  EXPECT_THAT(With(Gptq(), P("/dynamic"), {{"+:.*mlp.*", {{"bits", 8}}}}),
              HasSubstr("other bits or another group_size for \"+:.*mlp.*\""));
  EXPECT_EQ(With(Gptq(), P("/dynamic"), {{"+:.*mlp.*", {{"bits", 4}}}}), "");
  EXPECT_THAT(With(Awq(), P("/version"), "gemv"), HasSubstr("version is \"gemv\""));
  EXPECT_THAT(With(Awq(), P("/zero_point"), false), HasSubstr("zero_point is false"));
  EXPECT_THAT(With(Awq(), P("/bits"), 8), HasSubstr("only 4"));
  Json rounded = Gptq();
  rounded["quant_method"] = "auto-round";
  EXPECT_THAT(With(rounded, P("/packing_format"), "auto_round:exl2"), HasSubstr("packing_format"));
}

TEST(QuantizationConfigTest, RefusesVariantsOfCompressedTensors) {
  using P = Json::json_pointer;
  const Json good = CompressedTensors(Int4(), "pack-quantized");
  EXPECT_EQ(With(good, P("/sparsity_config"), Json::object()), "");
  EXPECT_THAT(With(good, P("/sparsity_config"), {{"format", "dense"}}), HasSubstr("sparsity"));
  EXPECT_THAT(With(good, P("/transform_config"), {{"a", 1}}), HasSubstr("transform_config"));
  EXPECT_THAT(With(good, P("/quantization_status"), "frozen"), HasSubstr("\"frozen\""));
  EXPECT_THAT(With(good, P("/format"), "nvfp4-pack-quantized"), HasSubstr("nvfp4-pack-quantized"));
  EXPECT_THAT(With(good, P("/config_groups"), Json::object()), HasSubstr("config_groups"));
  const std::string group = "/config_groups/group_0";
  EXPECT_THAT(With(good, P(group + "/output_activations"), {{"num_bits", 8}}),
              HasSubstr("output_activations"));
  EXPECT_THAT(With(good, P(group + "/input_activations"), {{"dynamic", false}}),
              HasSubstr("input_activations.dynamic"));
  EXPECT_THAT(With(good, P(group + "/weights/strategy"), "block"), HasSubstr("strategy"));
  EXPECT_THAT(With(good, P(group + "/weights/actorder"), "sideways"), HasSubstr("sideways"));
  EXPECT_THAT(With(good, P(group + "/weights"), nullptr), HasSubstr("weights is missing"));
  EXPECT_EQ(With(good, P("/kv_cache_scheme"), {{"num_bits", 8}}), "");
}

// "NAME" is skipped, "NAME: BITS" is quantised.
std::string VerdictOn(const ModuleRules& rules, const std::string& module) {
  const auto verdict = rules.Of(module);
  if (!verdict.ok()) return std::string(verdict.status().message());
  if (verdict->skipped_by != nullptr) return "skipped by " + verdict->skipped_by->written;
  return verdict->scheme == nullptr ? "none" : SchemeText(*verdict->scheme);
}

TEST(ModuleRulesTest, ListsAreReadAsTheirToolsDo) {
  const auto rules = [](Json inner, const std::string& key, const Json& list) {
    inner[key] = list;
    const Parsed parsed = ParseInner(inner);
    EXPECT_EQ(parsed.error, "");
    return ModuleRules::Create(parsed.config).value();
  };
  const std::string down = "model.layers.1.mlp.down_proj";
  const std::string router = "model.layers.1.mlp.gate";
  // Whole names; a block stands for all that is in it.
  const ModuleRules names = rules(Fp8(), "modules_to_not_convert", {down, "model.layers.2"});
  EXPECT_EQ(VerdictOn(names, down), "skipped by " + down);
  EXPECT_EQ(VerdictOn(names, "model.layers.2.mlp.up_proj"), "skipped by model.layers.2");
  EXPECT_THAT(VerdictOn(names, "model.layers.20.mlp.up_proj"), HasSubstr("blocks"));
  EXPECT_THAT(VerdictOn(names, "model.layers.1.mlp.down_proj2"), HasSubstr("blocks"));
  EXPECT_EQ(VerdictOn(rules(Fp8(), "ignored_layers", {down}), down), "skipped by " + down);
  // Parts of names, which end where a part does.
  for (const char* const part : {"mlp.gate", "mlp.gate.", "gate"}) {
    const ModuleRules parts = rules(Awq(), "modules_to_not_convert", {part});
    EXPECT_EQ(VerdictOn(parts, router), std::string("skipped by ") + part);
    EXPECT_THAT(VerdictOn(parts, "model.layers.1.mlp.gate_proj"), HasSubstr("int4"));
  }
  EXPECT_THAT(VerdictOn(rules(Awq(), "modules_to_not_convert", nullptr), router),
              HasSubstr("int4"));
  // Expressions that begin at the name's begin and end anywhere.
  const ModuleRules expressions = rules(CompressedTensors(Int4(), "pack-quantized"), "ignore",
                                        {"re:.*down", "re:layers.*up_proj", "lm_head"});
  EXPECT_EQ(VerdictOn(expressions, down), "skipped by re:.*down");
  EXPECT_THAT(VerdictOn(expressions, "model.layers.1.mlp.up_proj"), HasSubstr("int4"));
  EXPECT_EQ(VerdictOn(expressions, "lm_head"), "skipped by lm_head");
  const ModuleRules dynamic = rules(Gptq(), "dynamic", {{"-:.*\\.1\\.mlp", Json::object()}});
  EXPECT_EQ(VerdictOn(dynamic, down), "skipped by -:.*\\.1\\.mlp");
  EXPECT_THAT(VerdictOn(dynamic, "model.layers.2.mlp.up_proj"), HasSubstr("int4"));
}

TEST(ModuleRulesTest, TheClosestTargetWins) {
  Json inner = CompressedTensors(Int4(), "pack-quantized");
  const auto group = [](const std::string& target, int size) {
    Json weights = Int4();
    weights["group_size"] = size;
    return Json{{"targets", {target}}, {"weights", weights}};
  };
  inner["config_groups"]["group_1"] = group("re:.*down_proj", 64);
  inner["config_groups"]["group_2"] = group("model.layers.3.mlp.down_proj", 16);
  const ModuleRules rules = ModuleRules::Create(ParseInner(inner).config).value();
  EXPECT_EQ(VerdictOn(rules, "model.layers.0.mlp.up_proj"), "int4 in groups of 32");
  EXPECT_EQ(VerdictOn(rules, "model.layers.0.mlp.down_proj"), "int4 in groups of 64");
  EXPECT_EQ(VerdictOn(rules, "model.layers.3.mlp.down_proj"), "int4 in groups of 16");
  inner["config_groups"].erase("group_0");
  EXPECT_EQ(VerdictOn(ModuleRules::Create(ParseInner(inner).config).value(), "lm_head"), "none");
}

TEST(ModuleRulesTest, ExpressionsThatCannotBeUsed) {
  Json inner = CompressedTensors(Int4(), "pack-quantized");
  inner["ignore"] = {"re:("};
  EXPECT_THAT(ModuleRules::Create(ParseInner(inner).config).status().message(),
              HasSubstr("\"re:(\": no expression"));
  inner["ignore"] = {"re:(?:[a-z._0-9]+)*[~!]"};
  const ModuleRules rules = ModuleRules::Create(ParseInner(inner).config).value();
  const absl::Time start = absl::Now();
  EXPECT_THAT(VerdictOn(rules, "model.layers.0.mlp.experts.77.down_proj"), HasSubstr("steps"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
}

TEST(GptqFileTest, StandsAloneOrAgrees) {
  const auto read = [](const Json& file, const std::optional<QuantizationConfig>& config) {
    const auto fields = JsonFields::Parse(file.dump(), "quantize_config.json");
    const auto merged = ReadGptqFile(*fields, config);
    if (!fields->status().ok()) return std::string(fields->status().message());
    return merged ? SchemeText(merged->groups.at(0).scheme) : "nothing";
  };
  const Json file = {{"bits", 8}, {"group_size", 64}, {"desc_act", true}};
  EXPECT_EQ(read(file, std::nullopt), "int8 with zeros in groups of 64");
  EXPECT_EQ(read({{"bits", 4}, {"group_size", 128}}, ParseInner(Gptq()).config),
            "int4 with zeros in groups of 128");
  EXPECT_EQ(read(file, ParseInner(Gptq()).config),
            "quantize_config.json: bits is 8, but config.json says 4");
  EXPECT_THAT(read({{"bits", 4}, {"group_size", 64}}, ParseInner(Gptq()).config),
              HasSubstr("group_size is 64, but config.json says 128"));
  EXPECT_EQ(read(file, ParseInner(Fp8()).config), "fp8 in blocks of 128 x 64");
}

}  // namespace
}  // namespace tessera
