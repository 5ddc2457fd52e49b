#include "engine/model/quiet_work.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/support/cpu_time.h"

namespace tessera {
namespace {

void Burn(double seconds) {
  const double until = ThreadCpuSeconds() + seconds;
  while (ThreadCpuSeconds() < until) {
  }
}

TEST(QuietWorkTest, OnePieceAtATime) {
  QuietWork quiet;
  std::atomic<int> busy{0};
  std::atomic<int> most_busy{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int piece = 0; piece < 5; ++piece) {
        EXPECT_TRUE(quiet
                        .Run([&] {
                          const int now = ++busy;
                          if (now > most_busy) most_busy = now;
                          std::this_thread::sleep_for(std::chrono::milliseconds(1));
                          --busy;
                          return absl::OkStatus();
                        })
                        .ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most_busy, 1);
}

TEST(QuietWorkTest, RestsAfterWhatItTookOfTheProcessor) {
  constexpr double kPiece = 0.004;
  QuietWork quiet;
  const auto start = std::chrono::steady_clock::now();
  for (int piece = 0; piece < 3; ++piece) {
    ASSERT_TRUE(quiet
                    .Run([] {
                      Burn(kPiece);
                      return absl::OkStatus();
                    })
                    .ok());
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_GE(elapsed.count(), 3 * kPiece * (1 + QuietWork::kRest));
}

TEST(QuietWorkTest, PassesErrorsOn) {
  QuietWork quiet;
  EXPECT_EQ(quiet.Run([] { return absl::NotFoundError("gone"); }), absl::NotFoundError("gone"));
}

}  // namespace
}  // namespace tessera
