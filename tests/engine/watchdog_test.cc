#include "engine/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "absl/time/clock.h"

namespace tessera {
namespace {

TEST(WatchdogTest, NoticesWorkThatHangs) {
  std::promise<void> noticed;
  Watchdog watchdog(absl::Milliseconds(20), [&] { noticed.set_value(); });
  const absl::Time begun = absl::Now();
  watchdog.Begin();
  ASSERT_EQ(noticed.get_future().wait_for(std::chrono::seconds(60)), std::future_status::ready);
  EXPECT_GE(absl::Now() - begun, absl::Milliseconds(20) + Watchdog::kGrace - absl::Milliseconds(1));
  EXPECT_FALSE(watchdog.End());
}

TEST(WatchdogTest, WorkThatEndsInTimeIsLeftAlone) {
  std::atomic<int> calls{0};
  Watchdog watchdog(absl::Milliseconds(1), [&] { ++calls; });
  // Past the limit, within the grace: longer than the grace in all.
  for (int piece = 0; piece < 6; ++piece) {
    watchdog.Begin();
    absl::SleepFor(Watchdog::kGrace / 4);
    EXPECT_TRUE(watchdog.End());
  }
  absl::SleepFor(Watchdog::kGrace + absl::Milliseconds(100));  // nothing to do is not late
  watchdog.Stop();
  EXPECT_EQ(calls, 0);
}

TEST(WatchdogTest, StopsWhileItWatches) {
  std::atomic<int> calls{0};
  Watchdog watchdog(absl::InfiniteDuration(), [&] { ++calls; });
  watchdog.Begin();
  watchdog.Stop();
  watchdog.Stop();
  EXPECT_TRUE(watchdog.End());
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace tessera
