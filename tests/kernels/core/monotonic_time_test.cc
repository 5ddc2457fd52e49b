#include "kernels/core/monotonic_time.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

namespace tessera {
namespace {

TEST(MonotonicTimeTest, BeginsAtTheWallClock) {
  EXPECT_LT(absl::AbsDuration(MonotonicNow() - absl::Now()), absl::Minutes(1));
  EXPECT_LT(absl::AbsDuration(WallTime(MonotonicNow()) - absl::Now()), absl::Seconds(1));
}

TEST(PatientDeadlineTest, MovesOnlyWhenTheProcessDidNotRun) {
  const absl::Time deadline = absl::UnixEpoch();
  const absl::Duration limit = absl::Seconds(60);
  for (const absl::Duration late :
       {-absl::Seconds(9), absl::ZeroDuration(), kStopNoticed - absl::Milliseconds(1)}) {
    EXPECT_EQ(PatientDeadline(deadline, deadline + late, limit), deadline);
  }
  // Loaded machines cause short delays; nobody waits twice as long because of them.
  const absl::Time soon = deadline + kStopNoticed;
  EXPECT_EQ(PatientDeadline(deadline, soon, limit), soon + absl::Seconds(1));
  EXPECT_EQ(PatientDeadline(deadline, soon, absl::Milliseconds(1)), soon + absl::Milliseconds(1));
  const absl::Time later = deadline + absl::Hours(1);
  EXPECT_EQ(PatientDeadline(deadline, later, limit), later + limit);
  EXPECT_EQ(PatientDeadline(absl::InfiniteFuture(), later, absl::InfiniteDuration()),
            absl::InfiniteFuture());
}

TEST(WaitLimitTest, EndsWhenSomebodyLooks) {
  WaitLimit limit(absl::Milliseconds(30));
  const absl::Time begun = MonotonicNow();
  for (absl::Duration left = limit.left(); left > absl::ZeroDuration(); left = limit.left()) {
    absl::SleepFor(std::min(left, absl::Milliseconds(5)));
  }
  EXPECT_GE(MonotonicNow() - begun, absl::Milliseconds(30));
}

TEST(WaitLimitTest, BeginsAnewAfterAStop) {
  WaitLimit limit(absl::Milliseconds(500));
  absl::SleepFor(absl::Milliseconds(1600));  // as if stopped
  EXPECT_GT(limit.left(), absl::Milliseconds(400));
}

TEST(AwaitForTest, ReturnsWhetherTheConditionHolds) {
  absl::Mutex mutex;
  bool holds = false;
  const absl::Condition condition(&holds);
  {
    absl::MutexLock lock(&mutex);
    const absl::Time begun = MonotonicNow();
    EXPECT_FALSE(AwaitFor(&mutex, condition, absl::Milliseconds(30)));
    EXPECT_GE(MonotonicNow() - begun, absl::Milliseconds(30));
    EXPECT_FALSE(AwaitFor(&mutex, condition, absl::ZeroDuration()));
    EXPECT_FALSE(AwaitFor(&mutex, condition, -absl::Seconds(1)));
  }
  std::thread other([&] {
    absl::SleepFor(absl::Milliseconds(20));
    absl::MutexLock lock(&mutex);
    holds = true;
  });
  {
    absl::MutexLock lock(&mutex);
    EXPECT_TRUE(AwaitFor(&mutex, condition, absl::Minutes(10)));
    EXPECT_TRUE(AwaitUntil(&mutex, condition, absl::InfiniteFuture()));
    EXPECT_TRUE(AwaitFor(&mutex, condition, absl::ZeroDuration()));
  }
  other.join();
}

// Limits of all lengths at once, on one mutex that is often held and on others that go away.
TEST(AwaitForTest, ManyAtOnce) {
  absl::Mutex shared;
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 20; ++round) {
        absl::Mutex own;
        absl::Mutex* const mutex = i % 2 == 0 ? &shared : &own;
        const absl::Duration limit = absl::Microseconds(100 * ((i * 7 + round * 3) % 40));
        const bool never = false;
        const absl::Time begun = MonotonicNow();
        absl::MutexLock lock(mutex);
        EXPECT_FALSE(AwaitFor(mutex, absl::Condition(&never), limit));
        EXPECT_GE(MonotonicNow() - begun, limit);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tessera
