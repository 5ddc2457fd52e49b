#include "engine/grammar/token_mask.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/bit_mask.h"

namespace tessera {
namespace {

using testing::ElementsAre;

TEST(TokenMask, HoldsABitPerAllowedToken) {
  EXPECT_THAT(TokenMask({0, 33, 31, 33}, 64).words(), ElementsAre(INT32_MIN + 1, 2));
  EXPECT_THAT(TokenMask({}, 33).words(), ElementsAre(0, 0));
  const TokenMask large({151935}, 151936);
  EXPECT_EQ(large.words().size(), 4748U);
  EXPECT_TRUE(IsInMask(large.words().data(), 151935));
  EXPECT_FALSE(IsInMask(large.words().data(), 151934));
}

TEST(TokenMask, IgnoresWhatIsNoToken) {
  EXPECT_THAT(TokenMask({-1, 40, 45, INT32_MAX}, 41).words(), ElementsAre(0, 1 << 8));
}

TEST(TokenMask, EqualsMasksOfTheSameSet) {
  EXPECT_EQ(TokenMask({3, 1}, 50), TokenMask({1, 3, 3}, 50));
  EXPECT_FALSE(TokenMask({3, 1}, 50) == TokenMask({1, 4}, 50));
}

TEST(TokenMask, RequestsWithoutAListHaveNone) {
  EXPECT_EQ(MaskOf({}, 50), nullptr);
  EXPECT_THAT(MaskOf({.allowed_token_ids = {2}}, 50)->words(), ElementsAre(4, 0));
}

}  // namespace
}  // namespace tessera
