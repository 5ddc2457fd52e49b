#include "engine/scheduler/prefill_pace.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

// A machine whose steps take `base` and `token` for each prompt token, give or take a fifth.
PrefillPace Learned(absl::Duration base, absl::Duration token, int32_t chunk) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> noise(0.8, 1.2);
  PrefillPace pace;
  for (int i = 0; i < 50; ++i) {
    pace.Observe(0, noise(random) * base);
    pace.Observe(chunk, noise(random) * (base + chunk * token));
  }
  return pace;
}

TEST(PrefillPaceTest, NothingIsCutBeforeSomethingIsKnown) {
  PrefillPace pace;
  EXPECT_EQ(pace.Chunk(512), 512);
  pace.Observe(0, absl::Seconds(1));
  EXPECT_EQ(pace.Chunk(512), 512);
}

// 140 us per token: 15 ms have about a hundred.
TEST(PrefillPaceTest, ASlowMachineGetsShortChunks) {
  for (const int32_t chunk : {64, 512}) {
    const PrefillPace pace = Learned(absl::Milliseconds(2), absl::Microseconds(140), chunk);
    EXPECT_EQ(pace.Chunk(512), 64) << chunk;
    EXPECT_EQ(pace.Chunk(40), 40);
  }
}

TEST(PrefillPaceTest, AFastMachineGetsAllOfIt) {
  const PrefillPace pace = Learned(absl::Milliseconds(6), absl::Microseconds(25), 512);
  EXPECT_EQ(pace.Chunk(512), 512);
}

// Where decoding takes long, a little more is not felt: 40 ms have 400 tokens.
TEST(PrefillPaceTest, ALargeModelGetsLongerChunks) {
  const PrefillPace pace = Learned(absl::Milliseconds(20), absl::Microseconds(100), 256);
  EXPECT_GE(pace.Chunk(512), 320);
  EXPECT_LT(pace.Chunk(512), 512);
}

// Nothing is measured in the time between steps that take none.
TEST(PrefillPaceTest, NonsenseIsNotLearned) {
  PrefillPace pace = Learned(absl::Milliseconds(6), absl::Microseconds(25), 512);
  pace.Observe(512, absl::ZeroDuration());
  pace.Observe(512, -absl::Seconds(1));
  EXPECT_EQ(pace.Chunk(512), 512);
}

}  // namespace
}  // namespace tessera
