#include "engine/model/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/core/text_file.h"

namespace tessera {
namespace {

using nlohmann::json;

ModelConfig ConfigWith(const json& params) {
  json config = {{"architectures", {"Qwen3ForCausalLM"}},
                 {"head_dim", params.at("head_dim")},
                 {"rope_theta", params.at("rope_theta")},
                 {"rope_scaling", params}};
  return ParseModelConfig(config.dump(), "config.json").value();
}

TEST(RopeTest, MatchesTheGoldenFrequencies) {
  const json goldens =
      json::parse(*ReadTextFile(TESSERA_TEST_DATA "/reference/rope-goldens.json", 1 << 20));
  int checked = 0;
  for (const json& golden : goldens.at("cases")) {
    if (golden.at("name") == "dynamic") continue;  // refused by ParseModelConfig
    const RopeTable table = ComputeRope(ConfigWith(golden.at("params")));
    const json& expected = golden.at("inv_freq");
    ASSERT_EQ(table.inv_freq.size(), expected.size());
    EXPECT_NEAR(table.attention_factor, golden.at("attention_factor").get<double>(), 1e-6);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double value = expected[i].get<double>();
      EXPECT_NEAR(table.inv_freq[i], value, 1e-6 * value) << golden.at("params") << " pair " << i;
    }
    ++checked;
  }
  EXPECT_EQ(checked, 10);
}

json Yarn() {
  return {{"rope_type", "yarn"},
          {"factor", 4.0},
          {"original_max_position_embeddings", 32768},
          {"rope_theta", 1e6},
          {"head_dim", 128}};
}

TEST(RopeTest, AttentionFactorOfYarn) {
  json params = Yarn();
  EXPECT_NEAR(ComputeRope(ConfigWith(params)).attention_factor, 1.138629436, 1e-6);
  params["attn_factor"] = 0.8782488562869419;
  EXPECT_NEAR(ComputeRope(ConfigWith(params)).attention_factor, 1.0, 1e-6);
  params.erase("attn_factor");
  params["mscale"] = 2.0;
  params["mscale_all_dim"] = 1.0;
  const double log4 = std::log(4.0);
  EXPECT_NEAR(ComputeRope(ConfigWith(params)).attention_factor, (0.2 * log4 + 1) / (0.1 * log4 + 1),
              1e-6);
  params["mscale_all_dim"] = 0.0;
  EXPECT_NEAR(ComputeRope(ConfigWith(params)).attention_factor, 1.138629436, 1e-6);
  params["attention_factor"] = 1.5;
  EXPECT_EQ(ComputeRope(ConfigWith(params)).attention_factor, 1.5F);
}

TEST(RopeTest, CosSinTableHasTheAnglesOfTheReference) {
  const RopeTable table =
      ComputeRope(ConfigWith({{"rope_type", "default"}, {"rope_theta", 1e6}, {"head_dim", 128}}));
  const int64_t positions = 40960;
  const std::vector<float> rows = BuildCosSinTable(table, 128, positions);
  ASSERT_EQ(rows.size(), static_cast<size_t>(positions * 128));
  EXPECT_EQ(rows[0], 1.0F);
  EXPECT_EQ(rows[64], 0.0F);
  EXPECT_NEAR(rows[5 * 128], 0.283662185, 1e-6);
  EXPECT_NEAR(rows[5 * 128 + 64], -0.958924275, 1e-6);
}

// Bits recorded from a run of the reference with the real Qwen3-0.6B-Base. They tell apart the
// possible roundings of inv_freq, which at position 40959 differ by 3e-3.
TEST(RopeTest, RoundsLikeTheReference) {
  const RopeTable table =
      ComputeRope(ConfigWith({{"rope_type", "default"}, {"rope_theta", 1e6}, {"head_dim", 128}}));
  const std::vector<float> rows = BuildCosSinTable(table, 128, 32);
  const json facts =
      json::parse(*ReadTextFile(TESSERA_TEST_DATA "/reference/real-model-facts.json", 1 << 20));
  const auto bits = [](const json& hex) {
    return static_cast<uint32_t>(std::stoul(hex.get<std::string>(), nullptr, 16));
  };
  for (const json& fact : facts.at("rope_fp32")) {
    const size_t row = fact.at("pos").get<size_t>() * 128;
    const size_t lane = fact.at("lane").get<size_t>();
    EXPECT_NEAR(std::bit_cast<uint32_t>(rows[row + lane]), bits(fact.at("cos_hex")), 2) << fact;
    EXPECT_NEAR(std::bit_cast<uint32_t>(rows[row + 64 + lane]), bits(fact.at("sin_hex")), 2)
        << fact;
  }
}

TEST(RopeTest, TheTableIsScaledByTheAttentionFactor) {
  const std::vector<float> rows = BuildCosSinTable(ComputeRope(ConfigWith(Yarn())), 128, 2);
  EXPECT_NEAR(rows[0], 1.138629436, 1e-6);
  EXPECT_NEAR(rows[128], 1.138629436 * std::cos(1.0), 1e-6);
  EXPECT_NEAR(rows[192], 1.138629436 * std::sin(1.0), 1e-6);
}

}  // namespace
}  // namespace tessera
