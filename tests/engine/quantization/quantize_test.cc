#include "engine/quantization/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/e4m3.h"

namespace tessera {
namespace {

TEST(E4M3Test, EveryCodeComesBackAndEveryNumberGoesToTheNearest) {
  std::vector<float> values;
  for (int code = 0; code < 0x7F; ++code) {
    const float value = E4M3ToFloat(static_cast<uint8_t>(code));
    EXPECT_EQ(FloatToE4M3(value), code);
    EXPECT_EQ(FloatToE4M3(-value), code | 0x80);
    EXPECT_EQ(E4M3ToFloat(static_cast<uint8_t>(code | 0x80)), -value);
    if (code > 0) {
      EXPECT_GT(value, values.back());
    }
    values.push_back(value);
  }
  EXPECT_EQ(values[1], 0x1p-9F);
  EXPECT_EQ(values.back(), 448);
  // Halfway between two codes the even one.
  for (size_t code = 0; code + 1 < values.size(); ++code) {
    const float middle = (values[code] + values[code + 1]) / 2;
    EXPECT_EQ(FloatToE4M3(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(FloatToE4M3(std::nextafter(middle, 0.0F)), code);
    EXPECT_EQ(FloatToE4M3(std::nextafter(middle, 1e9F)), code + 1);
  }
  for (const float large : {449.0F, 464.0F, 1e9F, INFINITY}) {
    EXPECT_EQ(FloatToE4M3(large), 0x7E);
    EXPECT_EQ(FloatToE4M3(-large), 0xFE);
  }
  EXPECT_TRUE(std::isnan(E4M3ToFloat(FloatToE4M3(NAN))));
}

std::vector<float> Normals(uint64_t seed, size_t count) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

TEST(QuantizeTest, RowsOfBytes) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> row = Normals(seed, 77);
    float largest = 0;
    for (const float value : row) largest = std::max(largest, std::abs(value));
    std::vector<int8_t> ints(row.size());
    const float scale = QuantizeInt8(row, ints);
    EXPECT_EQ(scale, largest / 127);
    std::vector<uint8_t> floats(row.size());
    const float fp8_scale = QuantizeFp8(row, floats);
    EXPECT_EQ(fp8_scale, largest / 448);
    for (size_t i = 0; i < row.size(); ++i) {
      EXPECT_EQ(ints[i], std::nearbyint(row[i] / scale));
      EXPECT_GE(ints[i], -127);
      EXPECT_LE(std::abs(E4M3ToFloat(floats[i]) * fp8_scale - row[i]),
                std::abs(row[i]) / 16 + fp8_scale * 0x1p-10F);
    }
  }
  std::vector<int8_t> codes(3, 9);
  EXPECT_EQ(QuantizeInt8(std::vector<float>(3, 0.0F), codes), 1e-8F);
  EXPECT_EQ(codes, std::vector<int8_t>(3, 0));
}

// The definition, in double precision.
double ErrorOf(const std::vector<float>& group, float scale) {
  double sum = 0;
  for (const float value : group) {
    const double code = std::min(7.0, std::max(-8.0, std::nearbyint(double{value} / scale)));
    sum += std::pow(std::abs(value - scale * code), 2.4);
  }
  return sum;
}

TEST(QuantizeTest, GroupsOfFourBitsHaveTheScaleOfLeastError) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> group = Normals(seed, seed % 5 == 0 ? 17 : kInt4Group);
    std::vector<int8_t> codes(group.size());
    const float scale = BF16ToFloat(QuantizeInt4(group, codes));
    float largest = 0;
    for (const float value : group) {
      if (std::abs(value) > std::abs(largest)) largest = value;
    }
    double least = INFINITY;
    bool is_candidate = false;
    for (int step = 0; step <= 25; ++step) {
      const float r = 1 - 0.02F * static_cast<float>(step);
      const float candidate = BF16ToFloat(FloatToBF16(r * largest / -8));
      least = std::min(least, ErrorOf(group, candidate));
      is_candidate = is_candidate || std::abs(candidate / scale - 1) < 0.005;
    }
    EXPECT_TRUE(is_candidate) << scale;
    EXPECT_LE(ErrorOf(group, scale), least * 1.001) << seed;
    for (size_t i = 0; i < group.size(); ++i) {
      EXPECT_EQ(codes[i], std::min(7.0F, std::max(-8.0F, std::nearbyint(group[i] / scale))));
      if (group[i] == largest) {
        EXPECT_EQ(codes[i], -8);
      }
    }
  }
}

TEST(QuantizeTest, TiesGoToTheFirstAndZerosToZero) {
  std::vector<int8_t> codes(2);
  // Of two of equal magnitude the first: it gets -8, the other one 7.
  EXPECT_LT(BF16ToFloat(QuantizeInt4(std::vector<float>{0.5F, -0.5F}, codes)), 0);
  EXPECT_EQ(codes, (std::vector<int8_t>{-8, 7}));
  EXPECT_GT(BF16ToFloat(QuantizeInt4(std::vector<float>{-0.5F, 0.5F}, codes)), 0);
  EXPECT_EQ(codes, (std::vector<int8_t>{-8, 7}));
  EXPECT_EQ(QuantizeInt4(std::vector<float>{0.0F, -0.0F}, codes), FloatToBF16(1e-8F));
  EXPECT_EQ(codes, (std::vector<int8_t>{0, 0}));
}

}  // namespace
}  // namespace tessera
