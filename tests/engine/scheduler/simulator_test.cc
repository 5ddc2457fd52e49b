#include "tests/engine/scheduler/simulator.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <tuple>

namespace tessera {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): no threads here
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Steps that may be under way at the same time.
class SimulatorTest : public testing::TestWithParam<int32_t> {};

TEST_P(SimulatorTest, EveryInvariantHoldsInEveryHistory) {
  const uint64_t first = FromEnvironment("TESSERA_SIMULATOR_SEED", 1);
  const uint64_t count = FromEnvironment("TESSERA_SIMULATOR_COUNT", 12000);
  SimulationStats stats;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const std::string error = Simulate(seed, GetParam(), SimulatedFault::kNone, &stats);
    ASSERT_EQ(error, "") << "seed " << seed << "; repeat with\n  TESSERA_SIMULATOR_SEED=" << seed
                         << " TESSERA_SIMULATOR_COUNT=1 engine_simulator_test";
  }
  const auto print = [](const char* what, int64_t number) {
    std::printf("%lld %s\n", static_cast<long long>(number), what);
  };
  print("steps", stats.steps);
  print("tokens", stats.tokens);
  print("preemptions", stats.preemptions);
  print("cached tokens", stats.cached_tokens);
  print("cancelled", stats.cancelled);
  print("expired", stats.expired);
  print("finished", stats.finished);
  print("discarded rows", stats.discarded_rows);
  print("waits for a token", stats.waits);
  print("waits for a list", stats.waited_for_lists);
  if (count < 1000) return;
  // The histories reach what they are meant to reach.
  EXPECT_GT(stats.preemptions, static_cast<int64_t>(count / 10));
  EXPECT_GT(stats.cached_tokens, static_cast<int64_t>(count));
  EXPECT_GT(stats.cancelled, static_cast<int64_t>(count / 10));
  EXPECT_GT(stats.expired, static_cast<int64_t>(count / 10));
  EXPECT_GT(stats.finished, static_cast<int64_t>(count));
  EXPECT_GT(stats.discarded_rows, GetParam() == 1 ? 0 : static_cast<int64_t>(count));
  EXPECT_GT(stats.waits, GetParam() == 1 ? -1 : static_cast<int64_t>(count));
  EXPECT_GT(stats.waited_for_lists, 0);
}

INSTANTIATE_TEST_SUITE_P(Depths, SimulatorTest, testing::Values(1, 2));

// The suite has to fail on a broken system: nearly every history notices the fault put into it
// (some never get to it).
class SimulatorControl : public testing::TestWithParam<std::tuple<int32_t, SimulatedFault>> {};

TEST_P(SimulatorControl, NoticesTheFault) {
  const auto [depth, fault] = GetParam();
  SimulationStats stats;
  int noticed = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    if (!Simulate(seed, depth, fault, &stats).empty()) ++noticed;
  }
  EXPECT_GT(noticed, 60);
}

INSTANTIATE_TEST_SUITE_P(Faults, SimulatorControl,
                         testing::Combine(testing::Values(1, 2),
                                          testing::Values(SimulatedFault::kLeakedSequence,
                                                          SimulatedFault::kDroppedToken,
                                                          SimulatedFault::kRepeatedToken,
                                                          SimulatedFault::kLostKvWrite)));

}  // namespace
}  // namespace tessera
