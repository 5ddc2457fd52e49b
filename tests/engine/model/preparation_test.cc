#include "engine/model/preparation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace tessera {
namespace {

// True once `condition` holds; false after a minute.
template <typename Condition>
bool Becomes(const Condition& condition) {
  for (const absl::Time end = absl::Now() + absl::Minutes(1); absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return false;
}

TEST(PreparationTest, OneThreadWorksInAdd) {
  Preparation preparation(1);
  const std::thread::id self = std::this_thread::get_id();
  int done = 0;
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(preparation
                    .Add([&] {
                      EXPECT_EQ(std::this_thread::get_id(), self);
                      ++done;
                      return absl::OkStatus();
                    })
                    .ok());
    EXPECT_EQ(done, i + 1);
  }
  EXPECT_EQ(preparation.Add([] { return absl::DataLossError("torn"); }),
            absl::DataLossError("torn"));
  EXPECT_EQ(preparation.Finish(), absl::DataLossError("torn"));
}

TEST(PreparationTest, PiecesOverlapAndBeginInOrder) {
  constexpr int kThreads = 3;
  constexpr int kPieces = 50;
  std::atomic<int> at_work = 0;
  std::atomic<int> begun = 0;
  std::vector<int> order(kPieces, -1);
  Preparation preparation(kThreads);
  for (int i = 0; i < kPieces; ++i) {
    ASSERT_TRUE(preparation
                    .Add([&, i] {
                      order[i] = begun.fetch_add(1);
                      ++at_work;
                      // The first ones are at work together, or the test fails.
                      const bool met =
                          i >= kThreads || Becomes([&] { return begun.load() >= kThreads; });
                      EXPECT_LE(at_work.load(), kThreads);
                      --at_work;
                      return met ? absl::OkStatus() : absl::InternalError("alone");
                    })
                    .ok());
  }
  EXPECT_TRUE(preparation.Finish().ok());
  EXPECT_EQ(begun.load(), kPieces);
  // Whoever begins, only what the other threads have taken and not yet begun can come after it.
  for (int i = 0; i < kPieces; ++i) {
    const auto overtaken =
        std::count_if(order.begin(), order.begin() + i, [&](int of) { return of > order[i]; });
    EXPECT_LT(overtaken, kThreads) << i;
  }
}

TEST(PreparationTest, AddWaitsWhenEnoughIsWaiting) {
  constexpr int kThreads = 2;
  std::atomic<bool> open = false;
  std::atomic<int> added = 0;
  Preparation preparation(kThreads);
  std::thread adder([&] {
    for (int i = 0; i < 10; ++i) {
      EXPECT_TRUE(preparation
                      .Add([&] {
                        EXPECT_TRUE(Becomes([&] { return open.load(); }));
                        return absl::OkStatus();
                      })
                      .ok());
      ++added;
    }
  });
  // At work, and waiting.
  EXPECT_TRUE(Becomes([&] { return added.load() == 2 * kThreads; }));
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(added.load(), 2 * kThreads);
  open = true;
  adder.join();
  EXPECT_TRUE(preparation.Finish().ok());
}

TEST(PreparationTest, TheFailureAddedFirstIsReportedAndNothingBeginsAfterIt) {
  std::atomic<bool> second_failed = false;
  std::atomic<int> late = 0;
  Preparation preparation(2);
  EXPECT_TRUE(preparation
                  .Add([&] {
                    EXPECT_TRUE(Becomes([&] { return second_failed.load(); }));
                    absl::SleepFor(absl::Milliseconds(10));
                    return absl::NotFoundError("first");
                  })
                  .ok());
  EXPECT_TRUE(preparation
                  .Add([&] {
                    second_failed = true;
                    return absl::NotFoundError("second");
                  })
                  .ok());
  while (preparation
             .Add([&] {
               ++late;
               return absl::OkStatus();
             })
             .ok()) {
  }
  EXPECT_EQ(preparation.Finish(), absl::NotFoundError("first"));
  const int before = late.load();
  absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(late.load(), before);
}

TEST(PreparationTest, TheEndGivesUpWhatHasNotBegun) {
  auto preparation = std::make_unique<Preparation>(2);
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(preparation->Add([] { return absl::OkStatus(); }).ok());
  }
  preparation.reset();
}

}  // namespace
}  // namespace tessera
