#include "kernels/core/thread_pool.h"

#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <numeric>
#include <thread>

namespace tessera {
namespace {

struct PoolCase {
  int threads;
  bool spin;
  Schedule schedule;
};

class ThreadPoolTest : public testing::TestWithParam<PoolCase> {};

INSTANTIATE_TEST_SUITE_P(
    Pools, ThreadPoolTest,
    testing::Values(PoolCase{1, true, Schedule::kDynamic}, PoolCase{2, true, Schedule::kDynamic},
                    PoolCase{2, true, Schedule::kStatic}, PoolCase{3, false, Schedule::kDynamic},
                    PoolCase{5, false, Schedule::kStatic}, PoolCase{4, true, Schedule::kStatic}));

TEST_P(ThreadPoolTest, RunsEveryTaskOnceAndPublishesItsWrites) {
  const PoolCase& pool_case = GetParam();
  ThreadPool pool(pool_case.threads, pool_case.spin);
  EXPECT_EQ(pool.num_threads(), pool_case.threads);
  for (int repeat = 0; repeat < 300; ++repeat) {
    for (int64_t tasks : {0, 1, 2, 3, 7, 100}) {
      std::vector<int> counts(tasks);  // Not atomic: tasks are disjoint, the join publishes them.
      pool.ParallelFor(
          tasks, [&](int64_t i) { counts[i] += 1; }, pool_case.schedule);
      ASSERT_EQ(counts, std::vector<int>(tasks, 1)) << "repeat " << repeat;
    }
  }
}

TEST_P(ThreadPoolTest, WakesSleepingWorkers) {
  ThreadPool pool(GetParam().threads, GetParam().spin);
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::vector<int64_t> sums(64);
    pool.ParallelFor(
        64,
        [&](int64_t i) {
          for (int64_t j = 0; j <= i; ++j) sums[i] += j;
        },
        GetParam().schedule);
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(sums[i], i * (i + 1) / 2);
  }
}

// Jobs come right after Rest, while workers poll, and long after it, when they sleep.
TEST_P(ThreadPoolTest, JobsAfterRestRunLikeOthers) {
  const PoolCase& pool_case = GetParam();
  ThreadPool pool(pool_case.threads, pool_case.spin);
  pool.Rest();
  for (int repeat = 0; repeat < 300; ++repeat) {
    std::vector<int> counts(16);
    const auto count = [&](int64_t i) { counts[i] += 1; };
    pool.ParallelFor(16, count, pool_case.schedule);
    if (repeat % 3 != 0) pool.Rest();
    if (repeat % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.ParallelFor(16, count, pool_case.schedule);
    ASSERT_EQ(counts, std::vector<int>(16, 2)) << "repeat " << repeat;
    pool.Rest();
  }
}

std::chrono::nanoseconds ProcessorTime() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

TEST(ThreadPoolUseTest, SleepsWhenNoJobComes) {
  for (const bool rests : {false, true}) {
    ThreadPool pool(4, true);
    pool.ParallelFor(64, [](int64_t) {});
    if (rests) pool.Rest();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const auto before = ProcessorTime();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    EXPECT_LT(ProcessorTime() - before, std::chrono::milliseconds(30)) << rests;
  }
}

TEST(ThreadPoolUseTest, OtherThreadsReallyHelp) {
  for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
    ThreadPool pool(2, false);
    std::vector<std::thread::id> ids(2);
    std::atomic<int> arrived{0};
    // Each of the two tasks waits for the other, so one thread alone would never finish.
    pool.ParallelFor(
        2,
        [&](int64_t i) {
          ids[i] = std::this_thread::get_id();
          arrived.fetch_add(1);
          while (arrived.load() < 2) std::this_thread::yield();
        },
        schedule);
    EXPECT_NE(ids[0], ids[1]);
  }
}

TEST(ThreadPoolUseTest, PoolsComeAndGo) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    ThreadPool pool(1 + repeat % 4, repeat % 2 == 0);
    std::atomic<int> count{0};
    if (repeat % 3 != 0) pool.ParallelFor(9, [&](int64_t) { count.fetch_add(1); });
    EXPECT_EQ(count.load(), repeat % 3 != 0 ? 9 : 0);
  }
}

}  // namespace
}  // namespace tessera
