#include "engine/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/text_file.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kConfigs = TESSERA_TEST_DATA "/reference/configs/";

std::string ReadReference(const std::string& name) {
  return *ReadTextFile(std::string(kConfigs) + name, 1 << 20);
}

absl::StatusOr<ModelConfig> Parse(const json& config) {
  return ParseModelConfig(config.dump(), "config.json");
}

json Dense() {
  return json::parse(
      *ReadTextFile(TESSERA_TEST_DATA "/reference/models/dense/config.json", 1 << 20));
}
json Moe() {
  return json::parse(*ReadTextFile(TESSERA_TEST_DATA "/reference/models/moe/config.json", 1 << 20));
}

struct Released {
  std::string file;
  int64_t parameters;
  int64_t non_embedding;
  int64_t active;
  int64_t kv_bytes_per_token;
  double theta;
  int32_t max_positions;
};

class ReleasedConfigTest : public testing::TestWithParam<Released> {};

TEST_P(ReleasedConfigTest, HasThePublishedSize) {
  const Released& released = GetParam();
  const auto config = ParseModelConfig(ReadReference(released.file), released.file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_parameters(), released.parameters);
  EXPECT_EQ(config->num_non_embedding_parameters(), released.non_embedding);
  EXPECT_EQ(config->num_active_parameters(), released.active);
  EXPECT_EQ(config->KvBytesPerToken(DType::kBF16), released.kv_bytes_per_token);
  EXPECT_EQ(config->rope.theta, released.theta);
  EXPECT_EQ(config->context_limit(), released.max_positions);
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_EQ(config->dtype, DType::kBF16);
  EXPECT_EQ(config->rms_norm_eps, 1e-6F);
  EXPECT_EQ(config->layer_window, std::vector<int32_t>(config->layer_window.size(), 0));
}

constexpr int64_t k30bTotal = 30532122624;
constexpr int64_t k30bBare = k30bTotal - 2LL * 151936 * 2048;
constexpr int64_t k235bTotal = 235093634560;
constexpr int64_t k235bBare = k235bTotal - 2LL * 151936 * 4096;

INSTANTIATE_TEST_SUITE_P(
    All, ReleasedConfigTest,
    testing::Values(
        Released{"Qwen3-0.6B.config.json", 596049920, 440467456, 596049920, 114688, 1e6, 40960},
        Released{"Qwen3-0.6B-Base.config.json", 596049920, 440467456, 596049920, 114688, 1e6,
                 32768},
        Released{"Qwen3-1.7B.config.json", 1720574976, 1409410048, 1720574976, 114688, 1e6, 40960},
        Released{"Qwen3-4B.config.json", 4022468096, 3633511936, 4022468096, 147456, 1e6, 40960},
        Released{"Qwen3-4B-Instruct-2507.config.json", 4022468096, 3633511936, 4022468096, 147456,
                 5e6, 262144},
        Released{"Qwen3-8B.config.json", 8190735360, 6946075648, 8190735360, 147456, 1e6, 40960},
        Released{"Qwen3-14B.config.json", 14768307200, 13212482560, 14768307200, 163840, 1e6,
                 40960},
        Released{"Qwen3-32B.config.json", 32762123264, 31206298624, 32762123264, 262144, 1e6,
                 40960},
        Released{"Qwen3-30B-A3B.config.json", k30bTotal, k30bBare, 3353032704, 98304, 1e6, 40960},
        Released{"Qwen3-30B-A3B-Instruct-2507.config.json", k30bTotal, k30bBare, 3353032704, 98304,
                 1e7, 262144},
        Released{"Qwen3-235B-A22B.config.json", k235bTotal, k235bBare, 22190763520, 192512, 1e6,
                 40960},
        Released{"Qwen3-235B-A22B-2507.config.json", k235bTotal, k235bBare, 22190763520, 192512,
                 5e6, 262144}));

TEST(ModelConfigTest, CoderWith480BParametersHasThePublishedSize) {
  const json coder = {{"architectures", {"Qwen3MoeForCausalLM"}},
                      {"model_type", "qwen3_moe"},
                      {"hidden_size", 6144},
                      {"num_hidden_layers", 62},
                      {"num_attention_heads", 96},
                      {"num_key_value_heads", 8},
                      {"head_dim", 128},
                      {"intermediate_size", 8192},
                      {"moe_intermediate_size", 2560},
                      {"num_experts", 160},
                      {"norm_topk_prob", true},
                      {"qkv_bias", false},
                      {"use_qk_norm", true},
                      {"shared_expert_intermediate_size", 0},
                      {"rope_theta", 10000000},
                      {"max_position_embeddings", 262144},
                      {"eos_token_id", 151645}};
  const auto config = Parse(coder);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->num_parameters(), 480154875392);
  EXPECT_EQ(config->num_active_parameters(), 35474765312);
  EXPECT_EQ(config->KvBytesPerToken(DType::kBF16), 253952);
}

TEST(ModelConfigTest, ReadsEveryReferenceModelAndTheBundledOne) {
  int count = 0;
  const std::string models = TESSERA_TEST_DATA "/reference/models";
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    const auto config = LoadModelConfig(entry.path().string());
    EXPECT_TRUE(config.ok()) << config.status();
    ++count;
  }
  EXPECT_EQ(count, 15);
  const auto nano = LoadModelConfig(TESSERA_NANO_MODEL);
  ASSERT_TRUE(nano.ok()) << nano.status();
  EXPECT_EQ(nano->num_experts, 16);
  EXPECT_THAT(nano->eos_token_ids, ElementsAre(1647));
}

TEST(ModelConfigTest, ReadsHowWeightsAreQuantised) {
  const auto config = ParseModelConfig(ReadReference("Qwen3-14B-FP8.config.json"), "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_TRUE(config->quantization.has_value());
  EXPECT_EQ(config->quantization->method, "fp8");
  EXPECT_EQ(SchemeText(config->quantization->groups.at(0).scheme), "fp8 in blocks of 128 x 128");
}

TEST(ModelConfigTest, FillsInTheClassDefaults) {
  const auto dense =
      Parse({{"architectures", {"Qwen3ForCausalLM"}}, {"rope_theta", 1e6}, {"head_dim", nullptr}});
  ASSERT_TRUE(dense.ok()) << dense.status();
  EXPECT_EQ(dense->vocab_size, 151936);
  EXPECT_EQ(dense->hidden_size, 4096);
  EXPECT_EQ(dense->intermediate_size, 22016);
  EXPECT_EQ(dense->num_hidden_layers, 32);
  EXPECT_EQ(dense->num_key_value_heads, 32);
  EXPECT_EQ(dense->head_dim, 128);
  EXPECT_EQ(dense->max_position_embeddings, 32768);
  EXPECT_EQ(dense->dtype, DType::kF32);
  EXPECT_FALSE(dense->has_moe_layers());

  const auto moe = Parse({{"architectures", {"Qwen3MoeForCausalLM"}}, {"rope_theta", 1e6}});
  ASSERT_TRUE(moe.ok()) << moe.status();
  EXPECT_EQ(moe->hidden_size, 2048);
  EXPECT_EQ(moe->num_hidden_layers, 24);
  EXPECT_EQ(moe->num_key_value_heads, 4);
  EXPECT_EQ(moe->head_dim, 64);
  EXPECT_EQ(moe->num_experts, 128);
  EXPECT_EQ(moe->num_experts_per_tok, 8);
  EXPECT_EQ(moe->moe_intermediate_size, 768);
  EXPECT_FALSE(moe->norm_topk_prob);
  EXPECT_TRUE(moe->has_moe_layers());
}

TEST(ModelConfigTest, NullKeyValueHeadsMeansOnePerQueryHead) {
  json config = Dense();
  config["num_key_value_heads"] = nullptr;
  EXPECT_EQ(Parse(config)->num_key_value_heads, 4);
}

TEST(ModelConfigTest, ReadsTheNewNames) {
  json config = Moe();
  config.erase("num_experts");
  config["num_local_experts"] = 4;
  config.erase("torch_dtype");
  config["dtype"] = "float16";
  config["mlp_only_layers"] = nullptr;
  config["eos_token_id"] = {3, 5};
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->num_experts, 4);
  EXPECT_EQ(parsed->dtype, DType::kF16);
  EXPECT_THAT(parsed->eos_token_ids, ElementsAre(3, 5));
}

TEST(ModelConfigTest, MoeLayersFollowStepAndExceptions) {
  json config = Moe();
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3, 77};
  EXPECT_THAT(Parse(config)->layer_is_moe, ElementsAre(false, true, false, false, false, true));
  config["num_experts"] = 0;
  EXPECT_FALSE(Parse(config)->has_moe_layers());
}

TEST(ModelConfigTest, SlidingWindowPerLayer) {
  const auto reference = LoadModelConfig(TESSERA_TEST_DATA "/reference/models/dense-sliding");
  ASSERT_TRUE(reference.ok()) << reference.status();
  EXPECT_THAT(reference->layer_window, ElementsAre(0, 16, 16));

  json config = Dense();
  config["use_sliding_window"] = true;
  config["sliding_window"] = nullptr;
  EXPECT_THAT(Parse(config)->layer_window, ElementsAre(0, 0, 0));
  config.erase("sliding_window");
  EXPECT_THAT(Parse(config)->layer_window, ElementsAre(0, 0, 4096));
  config["sliding_window"] = 8;
  config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_THAT(Parse(config)->layer_window, ElementsAre(8, 0, 8));
  config["use_sliding_window"] = false;
  EXPECT_THAT(Parse(config).status().message(), HasSubstr("use_sliding_window"));

  json moe = Moe();
  moe["use_sliding_window"] = true;
  moe["sliding_window"] = 8;
  EXPECT_THAT(Parse(moe)->layer_window, ElementsAre(8, 8, 8));
}

TEST(ModelConfigTest, ReadsBothRopeSpellings) {
  json old_style = Dense();
  old_style["rope_theta"] = 1000000;
  old_style["rope_scaling"] = {{"type", "yarn"},
                               {"factor", 4},
                               {"original_max_position_embeddings", 32768},
                               {"attn_factor", 0.5}};
  json new_style = Dense();
  new_style.erase("rope_theta");
  new_style["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};  // loses
  new_style["rope_parameters"] = {{"rope_type", "yarn"},
                                  {"rope_theta", 1e6},
                                  {"factor", 4.0},
                                  {"original_max_position_embeddings", 32768},
                                  {"attn_factor", 0.5}};
  const auto a = Parse(old_style);
  const auto b = Parse(new_style);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(a->rope, b->rope);
  EXPECT_EQ(a->rope.theta, 1e6);
  EXPECT_EQ(a->rope.attn_factor, 0.5);
  EXPECT_EQ(a->context_limit(), 131072);
}

TEST(ModelConfigTest, YarnFillsInWhatIsMissing) {
  json config = Dense();  // 512 positions
  config["rope_scaling"] = {{"rope_type", "yarn"}, {"original_max_position_embeddings", 128}};
  EXPECT_EQ(Parse(config)->rope.factor, 4.0);
  EXPECT_EQ(Parse(config)->context_limit(), 512);
  config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 1.1}};
  EXPECT_EQ(Parse(config)->rope.original_max_position_embeddings, 512);
  EXPECT_EQ(Parse(config)->context_limit(), 563);
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2}};
  EXPECT_EQ(Parse(config)->context_limit(), 1024);
}

struct Refused {
  std::string key;
  json value;
  std::string reason;  // must appear in the message, with the key
};

class RefusedValueTest : public testing::TestWithParam<Refused> {};

TEST_P(RefusedValueTest, NamesFileAndKey) {
  json config = Moe();
  config[GetParam().key] = GetParam().value;
  const auto parsed = ParseModelConfig(config.dump(), "dir/config.json");
  ASSERT_FALSE(parsed.ok()) << config;
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, HasSubstr("dir/config.json: "));
  EXPECT_THAT(message, HasSubstr(GetParam().key));
  EXPECT_THAT(message, HasSubstr(GetParam().reason));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 400U);
}

INSTANTIATE_TEST_SUITE_P(
    LookAlikes, RefusedValueTest,
    testing::Values(
        Refused{"architectures", json::array({"Qwen3NextForCausalLM"}), "Qwen3NextForCausalLM"},
        Refused{"architectures", json::array({"Qwen3VLMoeForConditionalGeneration"}), "VLMoe"},
        Refused{"architectures", json::array({"Qwen3_5ForCausalLM"}), "Qwen3_5"},
        Refused{"architectures", json::array({"Qwen3OmniMoeForConditionalGeneration"}), "Omni"},
        Refused{"architectures", json::array({"Qwen2ForCausalLM"}), "Qwen2ForCausalLM"},
        Refused{"architectures", json::array({"Qwen3Model"}), "Qwen3Model"},
        Refused{"architectures", nullptr, "only"}, Refused{"architectures", "Qwen3", "list"},
        Refused{"architectures", json::array({1}), "list of strings"},
        Refused{"model_type", "qwen3", "qwen3_moe"}, Refused{"model_type", "qwen3_next", "next"},
        Refused{"hidden_act", "gelu", "gelu"}, Refused{"use_qk_norm", false, "normalises"},
        Refused{"qkv_bias", true, "architecture"},
        Refused{"shared_expert_intermediate_size", 512, "shared expert"},
        Refused{"partial_rotary_factor", 0.5, "whole heads"},
        Refused{"quantization_config", {{"quant_method", "hqq"}}, "quant_method \"hqq\""},
        Refused{"quantization_config", {{"quant_method", "gptq"}}, "bits is missing"},
        Refused{"quantization_config", 3, "object"}, Refused{"torch_dtype", "float8_e4m3", "only"},
        Refused{"torch_dtype", "int8", "only"}, Refused{"torch_dtype", 16, "string"}));

INSTANTIATE_TEST_SUITE_P(
    HostileNumbers, RefusedValueTest,
    testing::Values(
        Refused{"vocab_size", 0, "from 1"}, Refused{"vocab_size", -1, "from 1"},
        Refused{"vocab_size", 18446744073709551615ULL, "from 1"},
        Refused{"vocab_size", 288.5, "integer"}, Refused{"vocab_size", 288.0, "integer"},
        Refused{"vocab_size", true, "integer"}, Refused{"vocab_size", "288", "integer"},
        Refused{"hidden_size", 9223372036854775807LL, "from 1"},
        Refused{"intermediate_size", -9223372036854775807LL - 1, "from 1"},
        Refused{"num_hidden_layers", 1 << 30, "to 1024"},
        Refused{"num_attention_heads", 0, "from 1"}, Refused{"num_attention_heads", 3, "head"},
        Refused{"num_key_value_heads", 0, "from 1"}, Refused{"num_key_value_heads", 3, "divide"},
        Refused{"head_dim", 0, "from 2"}, Refused{"head_dim", 33, "even"},
        Refused{"rms_norm_eps", 0, "number"}, Refused{"rms_norm_eps", -1e-6, "number"},
        Refused{"rms_norm_eps", "x", "number"}, Refused{"rms_norm_eps", 1e300, "number"},
        Refused{"max_position_embeddings", 0, "from 1"},
        Refused{"max_position_embeddings", 4294967296LL, "from 1"},
        Refused{"num_experts", -1, "from 0"}, Refused{"num_experts", 5000, "to 4096"},
        Refused{"num_experts", 1, "num_experts_per_tok"},
        Refused{"num_experts_per_tok", 9, "more than num_experts"},
        Refused{"num_experts_per_tok", 0, "from 1"}, Refused{"num_local_experts", 9, "contradicts"},
        Refused{"moe_intermediate_size", 0, "from 1"},
        Refused{"norm_topk_prob", 1, "true or false"}, Refused{"decoder_sparse_step", 0, "from 1"},
        Refused{"mlp_only_layers", json::array({-1}), "from 0"},
        Refused{"mlp_only_layers", {{"a", 1}}, "integer"}, Refused{"eos_token_id", 288, "to 287"},
        Refused{"eos_token_id", json::array({2, "x"}), "integer"},
        Refused{"tie_word_embeddings", "false", "true or false"},
        Refused{"use_sliding_window", 0, "true or false"},
        Refused{"layer_types", json::array({"full_attention"}), "1 entries for 3 layers"},
        Refused{"layer_types", {"full_attention", "full_attention", "linear_attention"}, "linear"},
        Refused{"max_window_layers", -1, "from 0"}));

INSTANTIATE_TEST_SUITE_P(
    Rope, RefusedValueTest,
    testing::Values(
        Refused{"rope_theta", nullptr, "missing"}, Refused{"rope_theta", 0, "number"},
        Refused{"rope_theta", 1, "number"}, Refused{"rope_theta", -1e6, "number"},
        Refused{"rope_theta", "1e6", "number"}, Refused{"rope_scaling", 3, "object"},
        Refused{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2}}, "dynamic"},
        Refused{"rope_scaling", {{"type", "longrope"}}, "longrope"},
        Refused{"rope_scaling", {{"rope_type", "linear"}}, "factor is missing"},
        Refused{"rope_scaling", {{"rope_type", "linear"}, {"factor", 0}}, "factor"},
        Refused{"rope_scaling",
                {{"rope_type", "yarn"},
                 {"factor", 65536},
                 {"original_max_position_embeddings", 1 << 30}},
                "extends"},
        Refused{"rope_scaling", {{"rope_type", "yarn"}, {"factor", -4}}, "factor"},
        Refused{"rope_scaling", {{"rope_type", "yarn"}, {"beta_fast", 0}}, "beta_fast"},
        Refused{"rope_scaling", {{"rope_type", "yarn"}, {"beta_fast", 0.5}}, "beta_slow"},
        Refused{"rope_scaling",
                {{"rope_type", "yarn"}, {"original_max_position_embeddings", 1024}},
                "factor is missing"},
        Refused{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}}, "low_freq_factor"},
        Refused{"rope_scaling",
                {{"rope_type", "llama3"},
                 {"factor", 2},
                 {"low_freq_factor", 2},
                 {"high_freq_factor", 2},
                 {"original_max_position_embeddings", 64}},
                "high_freq_factor"},
        Refused{"rope_parameters",
                {{"full_attention", {{"rope_type", "yarn"}}}, {"rope_type", "proportional"}},
                "proportional"}));

TEST(ModelConfigTest, TextThatIsNoObjectIsOneLine) {
  for (const std::string text : {"", "{", "[]", "3", "null", "{\"a\":NaN}", "{\"a\":1e999}",
                                 "\xff\xfe", "{\"architectures\":[\"\xff\"]}"}) {
    const auto parsed = ParseModelConfig(text, "config.json");
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_THAT(std::string(parsed.status().message()), testing::StartsWith("config.json: "));
  }
  EXPECT_FALSE(ParseModelConfig(std::string(1 << 20, '['), "config.json").ok());
}

TEST(ModelConfigTest, MissingAndUnreadableFilesAreNamed) {
  const auto missing = LoadModelConfig("/nonexistent/model");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr("/nonexistent/model/config.json"));
  const std::string directory = testing::TempDir() + "/config_is_a_folder";
  std::filesystem::create_directories(directory + "/config.json");
  EXPECT_THAT(LoadModelConfig(directory).status().message(), HasSubstr("not a regular file"));
}

// Any value in any field: an error or a configuration whose numbers can be used.
TEST(ModelConfigTest, RandomValuesNeverBreakIt) {
  const std::vector<json> values = {nullptr,
                                    true,
                                    0,
                                    1,
                                    -1,
                                    2,
                                    7,
                                    1 << 20,
                                    4294967296LL,
                                    1e-300,
                                    1e300,
                                    0.5,
                                    "",
                                    "x",
                                    json::array(),
                                    json::object(),
                                    json::array({0, 1}),
                                    {{"factor", 2}},
                                    {{"rope_type", "yarn"}},
                                    {{"rope_type", "yarn"}, {"factor", 2}, {"mscale", 1}}};
  const uint64_t seed = 20240607;
  std::mt19937_64 random(seed);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    json config = round % 2 == 0 ? Moe() : Dense();
    const int changes = 1 + static_cast<int>(random() % 2);
    for (int change = 0; change < changes; ++change) {
      auto field = config.begin();
      std::advance(field, static_cast<int64_t>(random() % config.size()));
      *field = values[random() % values.size()];
    }
    const auto parsed = Parse(config);
    if (!parsed.ok()) continue;
    ++accepted;
    EXPECT_GT(parsed->num_parameters(), 0) << "seed " << seed << ": " << config;
    EXPECT_GE(parsed->num_parameters(), parsed->num_active_parameters()) << config;
    EXPECT_GT(parsed->context_limit(), 0) << config;
    EXPECT_GT(parsed->KvBytesPerToken(DType::kF32), 0) << config;
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace tessera
