#include "kernels/core/philox.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera {
namespace {

using Words = std::array<uint32_t, 4>;

// Known answers published with the algorithm (Random123, kat_vectors).
static_assert(Philox4x32({0, 0, 0, 0}, {0, 0}) ==
              Words{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U});

TEST(PhiloxTest, KnownAnswers) {
  constexpr uint32_t kOnes = 0xffffffffU;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU}));
  EXPECT_EQ(
      Philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}),
      (Words{0xd16cfe09U, 0x94fdcceb, 0x5001e420U, 0x24126ea1U}));
}

TEST(PhiloxTest, UniformExcludesBothEnds) {
  EXPECT_GT(UniformFromBits(0), 0.0);
  EXPECT_LT(UniformFromBits(0xffffffffU), 1.0);
  EXPECT_TRUE(std::isfinite(-std::log(-std::log(UniformFromBits(0)))));
  EXPECT_TRUE(std::isfinite(-std::log(-std::log(UniformFromBits(0xffffffffU)))));
}

TEST(PhiloxTest, DrawsDependOnSeedPositionAndId) {
  const double draw = UniformFromSeed(1, 2, 3);
  EXPECT_EQ(draw, UniformFromSeed(1, 2, 3));
  EXPECT_NE(draw, UniformFromSeed(1, 2, 4));
  EXPECT_NE(draw, UniformFromSeed(1, 3, 3));
  EXPECT_NE(draw, UniformFromSeed(2, 2, 3));
  EXPECT_NE(draw, UniformFromSeed(1 + (uint64_t{1} << 32), 2, 3));
}

TEST(PhiloxTest, DrawsAreUniform) {
  constexpr int kBins = 64;
  constexpr int kDraws = 64000;
  std::array<int, kBins> counts{};
  for (uint32_t i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(UniformFromSeed(99, i / 100, i % 100) * kBins)];
  }
  double chi_square = 0;
  for (int count : counts) {
    const double difference = count - kDraws / kBins;
    chi_square += difference * difference / (kDraws / kBins);
  }
  EXPECT_LT(chi_square, 103.4);  // 63 degrees of freedom, p = 0.001
}

}  // namespace
}  // namespace tessera
