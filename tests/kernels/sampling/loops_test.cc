// The loops over a vocabulary of every instruction set this machine has, against formulas and
// against each other.
#include "kernels/sampling/isa/loops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/bit_mask.h"
#include "kernels/core/philox.h"
#include "kernels/sampling/isa/isa.h"
#include "tests/kernels/op_test.h"

namespace tessera::sampling {
namespace {

using test::ForSeeds;
using test::Random;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class LoopsTest : public testing::TestWithParam<const Loops*> {
 protected:
  const Loops& loops() const { return *GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Supported, LoopsTest, testing::ValuesIn(SupportedLoops()),
                         [](const auto& test_case) { return std::string(test_case.param->name); });

std::vector<float> RandomLogits(Random& random) {
  std::vector<float> logits = random.Normals(random.Int(1, 400), 5.0F);
  if (random.Chance(0.3))
    std::replace_if(
        logits.begin(), logits.end(), [&](float) { return random.Chance(0.9); }, -kInfinity);
  if (random.Chance(0.2)) logits.assign(logits.size(), -0.0F);
  return logits;
}

TEST_P(LoopsTest, FindsTheLargestOfEachBlock) {
  ForSeeds(200, [&](Random& random) {
    const std::vector<float> logits = RandomLogits(random);
    const auto size = static_cast<int64_t>(logits.size());
    std::vector<float> largest((size + kBlock - 1) / kBlock + 1, 123.0F);
    EXPECT_FALSE(loops().summarize(logits.data(), size, largest.data()));
    for (int64_t begin = 0; begin < size; begin += kBlock) {
      const auto first = logits.begin() + begin;
      const float expected = *std::max_element(first, first + std::min(kBlock, size - begin));
      EXPECT_EQ(largest[begin / kBlock], expected);
    }
    EXPECT_EQ(largest.back(), 123.0F) << "written beyond the end";
  });
}

TEST_P(LoopsTest, SeesEveryNan) {
  std::vector<float> largest(3);
  for (const float nan : {std::nanf(""), -std::nanf("")}) {
    for (int64_t i = 0; i < 130; ++i) {
      std::vector<float> logits(130, 1.0F);
      logits[0] = kInfinity;
      logits[1] = -kInfinity;
      EXPECT_FALSE(loops().summarize(logits.data(), 130, largest.data()));
      logits[i] = nan;
      EXPECT_TRUE(loops().summarize(logits.data(), 130, largest.data())) << i;
    }
  }
}

TEST_P(LoopsTest, MasksAndSummarises) {
  ForSeeds(200, [&](Random& random) {
    const std::vector<float> logits = RandomLogits(random);
    const auto size = static_cast<int64_t>(logits.size());
    std::vector<int32_t> mask;
    for (int64_t i = 0; i < MaskWords(size); ++i) {
      mask.push_back(static_cast<int32_t>(random.Int(INT32_MIN, INT32_MAX)));
    }
    std::vector<float> expected = logits;
    for (int64_t i = 0; i < size; ++i) {
      if (!IsInMask(mask.data(), i)) expected[i] = -kInfinity;
    }
    std::vector<float> expected_largest((size + kBlock - 1) / kBlock);
    PortableLoops().summarize(expected.data(), size, expected_largest.data());
    expected.push_back(123.0F);
    std::vector<float> out(size + 1, 123.0F);
    std::vector<float> largest(expected_largest.size());
    EXPECT_FALSE(
        loops().summarize_masked(logits.data(), mask.data(), size, out.data(), largest.data()));
    EXPECT_EQ(out, expected);
    EXPECT_EQ(largest, expected_largest);
    out = logits;
    loops().summarize_masked(out.data(), mask.data(), size, out.data(), largest.data());
    out.push_back(123.0F);
    EXPECT_EQ(out, expected) << "in place";
  });
}

TEST_P(LoopsTest, SeesEveryNanThatTheMaskLeaves) {
  std::vector<float> largest(3);
  std::vector<float> out(130);
  for (int64_t i = 0; i < 130; ++i) {
    std::vector<float> logits(130, 1.0F);
    logits[i] = std::nanf("");
    std::vector<int32_t> mask(MaskWords(130), -1);
    EXPECT_TRUE(
        loops().summarize_masked(logits.data(), mask.data(), 130, out.data(), largest.data()));
    mask[i / 32] = static_cast<int32_t>(~(1U << (i % 32)));
    EXPECT_FALSE(
        loops().summarize_masked(logits.data(), mask.data(), 130, out.data(), largest.data()));
  }
}

TEST_P(LoopsTest, WeighsWithinThePromisedError) {
  ForSeeds(100, [&](Random& random) {
    std::vector<float> logits = RandomLogits(random);
    for (float& l : logits) l *= random.Chance(0.1) ? 50.0F : 1.0F;
    const float divisor = random.Chance(0.3) ? 1.0F : 0.05F * static_cast<float>(random.Int(1, 40));
    const float largest = *std::max_element(logits.begin(), logits.end()) / divisor;
    if (largest == -kInfinity) return;
    const auto size = static_cast<int64_t>(logits.size());
    const int64_t begin = random.Int(0, size - 1);
    const ScaledLogits row{logits.data(), divisor, largest};
    std::vector<double> weights(size - begin);
    loops().weigh(row, begin, size - begin, weights.data());
    double total = 0;
    for (int64_t i = begin; i < size; ++i) {
      const double distance = static_cast<double>(logits[i] / divisor) - largest;
      const double expected = distance < -700 ? 0 : std::exp(distance);
      EXPECT_NEAR(weights[i - begin], expected, 1e-13 * expected) << distance;
      total += expected;
    }
    EXPECT_NEAR(loops().sum_weights(row, begin, size - begin), total, 1e-12 * total);
  });
}

TEST_P(LoopsTest, BucketsFallWithTheLogits) {
  ForSeeds(100, [&](Random& random) {
    std::vector<float> logits = RandomLogits(random);
    std::sort(logits.begin(), logits.end(), std::greater<>());
    if (logits[0] == -kInfinity) return;
    const float divisor = 0.05F * static_cast<float>(random.Int(1, 40));
    const auto size = static_cast<int64_t>(logits.size());
    const ScaledLogits row{logits.data(), divisor, logits[0] / divisor};
    std::vector<int32_t> buckets(size);
    loops().bucket(row, 0, size, buckets.data());
    EXPECT_EQ(buckets[0], 0);
    EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
    EXPECT_LT(buckets.back(), kBuckets);
    std::vector<int32_t> portable(size);
    PortableLoops().bucket(row, 0, size, portable.data());
    EXPECT_EQ(buckets, portable);
    const float limit = logits[random.Int(0, size - 1)] / divisor;
    const auto greater =
        std::count_if(logits.begin(), logits.end(), [&](float l) { return l / divisor > limit; });
    EXPECT_EQ(loops().count_greater(row, 0, size, limit), greater);
  });
}

TEST_P(LoopsTest, DrawsAreThoseOfPhilox) {
  ForSeeds(300, [&](Random& random) {
    const auto seed = static_cast<uint64_t>(random.engine()());
    const auto position = static_cast<uint32_t>(random.engine()());
    const auto block = static_cast<uint32_t>(random.Int(0, 100000));
    uint32_t draws[kBlock];
    ASSERT_TRUE(loops().draws_of_block(seed, position, block, 0, draws));
    for (uint32_t i = 0; i < kBlock; ++i) {
      const auto id = static_cast<uint32_t>(block * kBlock + i);
      EXPECT_EQ(UniformFromBits(draws[i]), UniformFromSeed(seed, position, id));
    }
    const uint32_t largest = *std::max_element(draws, draws + kBlock);
    uint32_t again[kBlock];
    EXPECT_TRUE(loops().draws_of_block(seed, position, block, largest, again));
    EXPECT_TRUE(std::equal(draws, draws + kBlock, again));
    EXPECT_FALSE(loops().draws_of_block(seed, position, block, largest + 1, again));
  });
}

}  // namespace
}  // namespace tessera::sampling
