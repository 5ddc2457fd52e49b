#include "tests/engine/scheduler/simulator.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tessera {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): no threads here
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(Simulator, EveryInvariantHoldsInEveryHistory) {
  const uint64_t first = FromEnvironment("TESSERA_SIMULATOR_SEED", 1);
  const uint64_t count = FromEnvironment("TESSERA_SIMULATOR_COUNT", 12000);
  SimulationStats stats;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const std::string error = Simulate(seed, SimulatedFault::kNone, &stats);
    ASSERT_EQ(error, "") << "seed " << seed << "; repeat with\n  TESSERA_SIMULATOR_SEED=" << seed
                         << " TESSERA_SIMULATOR_COUNT=1 engine_simulator_test";
  }
  std::printf(
      "%lld steps, %lld tokens, %lld preemptions, %lld cached, %lld cancelled, "
      "%lld expired, %lld finished\n",
      static_cast<long long>(stats.steps), static_cast<long long>(stats.tokens),
      static_cast<long long>(stats.preemptions), static_cast<long long>(stats.cached_tokens),
      static_cast<long long>(stats.cancelled), static_cast<long long>(stats.expired),
      static_cast<long long>(stats.finished));
  if (count < 1000) return;
  // The histories reach what they are meant to reach.
  EXPECT_GT(stats.preemptions, static_cast<int64_t>(count / 10));
  EXPECT_GT(stats.cached_tokens, static_cast<int64_t>(count));
  EXPECT_GT(stats.cancelled, static_cast<int64_t>(count / 10));
  EXPECT_GT(stats.expired, static_cast<int64_t>(count / 10));
  EXPECT_GT(stats.finished, static_cast<int64_t>(count));
}

// The suite has to fail on a broken system: nearly every history notices the fault put into it
// (some never get to it).
class SimulatorControl : public testing::TestWithParam<SimulatedFault> {};

TEST_P(SimulatorControl, NoticesTheFault) {
  SimulationStats stats;
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    if (!Simulate(seed, GetParam(), &stats).empty()) ++noticed;
  }
  EXPECT_GT(noticed, 60);
}

INSTANTIATE_TEST_SUITE_P(Faults, SimulatorControl,
                         testing::Values(SimulatedFault::kLeakedSequence,
                                         SimulatedFault::kDroppedToken,
                                         SimulatedFault::kRepeatedToken,
                                         SimulatedFault::kLostKvWrite));

}  // namespace
}  // namespace tessera
