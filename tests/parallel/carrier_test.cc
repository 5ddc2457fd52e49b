#include "parallel/carrier/carrier.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "parallel/carrier/bell.h"
#include "parallel/carrier/fiber.h"

namespace tessera {
namespace {

TEST(FiberTest, ContinuesWhereItPaused) {
  std::vector<int> seen;
  Fiber* self = nullptr;
  Fiber fiber([&] {
    for (int i = 0; i < 3; ++i) {
      seen.push_back(i);
      self->Pause();
    }
    seen.push_back(3);
  });
  self = &fiber;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(static_cast<int>(seen.size()), i);
    fiber.Resume();
  }
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2, 3}));
}

int Depth(int left) {
  volatile char frame[1024] = {};
  frame[left % 1024] = 1;
  return left == 0 ? 0 : frame[left % 1024] + Depth(left - 1);
}

TEST(FiberTest, HasTheStackOfAThread) {
  int depth = 0;
  Fiber fiber([&] { depth = Depth(2000); });
  fiber.Resume();
  EXPECT_EQ(depth, 2000);
}

// There is a page below the stack that nobody may touch.
TEST(FiberDeathTest, AnOverflowCrashes) {
  const auto overflow = [] {
    Fiber fiber([] { Depth(20'000); });
    fiber.Resume();
  };
  EXPECT_DEATH(overflow(), "");
}

TEST(FiberTest, ExceptionsStayInside) {
  bool caught = false;
  Fiber fiber([&] {
    try {
      throw 1;
    } catch (int) {
      caught = true;
    }
  });
  fiber.Resume();
  EXPECT_TRUE(caught);
}

TEST(FiberTest, MayEndWithoutHavingBegun) {
  Fiber fiber([] { FAIL(); });
}

TEST(CarrierTest, DoesPostedWorkInOrder) {
  for (int seats : {1, 3}) {
    std::vector<int> order;
    {
      Carrier carrier(seats, std::make_shared<Bell>());
      for (int i = 0; i < 100; ++i) carrier.seat(0).Post([&order, i] { order.push_back(i); });
    }
    std::vector<int> expected(100);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(order, expected) << seats;
  }
}

TEST(CarrierTest, RanksOfOneThreadWaitForEachOther) {
  Carrier carrier(2, std::make_shared<Bell>());
  int turn = 0;  // one thread: no lock
  std::vector<int> order;
  for (int rank = 0; rank < 2; ++rank) {
    Seat* const seat = &carrier.seat(rank);
    ASSERT_TRUE(seat->shared());
    seat->Post([&, seat, rank] {
      for (int i = 0; i < 50; ++i) {
        EXPECT_TRUE(seat->Wait([&] { return turn == rank; }));
        order.push_back(rank);
        turn = 1 - rank;
      }
    });
  }
  ASSERT_TRUE(carrier.Stop(absl::Now() + absl::Seconds(30)));
  ASSERT_EQ(order.size(), 100U);
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], static_cast<int>(i % 2));
}

TEST(CarrierTest, YieldLetsEveryOtherRankRunOnce) {
  Carrier carrier(3, std::make_shared<Bell>());
  std::vector<int> order;
  for (int rank = 0; rank < 3; ++rank) {
    Seat* const seat = &carrier.seat(rank);
    seat->Post([&, seat, rank] {
      // Until all have begun, they are not in step.
      order.push_back(rank);
      seat->Wait([&] { return order.size() >= 3; });
      for (int i = 0; i < 10; ++i) {
        order.push_back(rank);
        seat->Yield();
      }
    });
  }
  ASSERT_TRUE(carrier.Stop(absl::Now() + absl::Seconds(30)));
  ASSERT_EQ(order.size(), 33U);
  for (size_t i = 3; i + 3 <= order.size(); i += 3) {
    std::vector<int> round(order.begin() + i, order.begin() + i + 3);
    std::sort(round.begin(), round.end());
    EXPECT_EQ(round, (std::vector<int>{0, 1, 2})) << i;
  }
}

TEST(CarrierTest, WaitEndsAtTheDeadlineWhileOthersWaitForever) {
  Carrier carrier(2, std::make_shared<Bell>());
  std::atomic<bool> timed_out{false};
  Seat* const first = &carrier.seat(0);
  Seat* const second = &carrier.seat(1);
  first->Post([&, first] { EXPECT_TRUE(first->Wait([&] { return timed_out.load(); })); });
  second->Post([&, second] {
    const absl::Time start = absl::Now();
    EXPECT_FALSE(second->Wait([] { return false; }, start + absl::Milliseconds(50)));
    EXPECT_GE(absl::Now() - start, absl::Milliseconds(50));
    timed_out = true;
  });
  EXPECT_TRUE(carrier.Stop(absl::Now() + absl::Seconds(30)));
  EXPECT_TRUE(timed_out);
}

TEST(CarrierTest, BellWakesASleepingCarrier) {
  const auto bell = std::make_shared<Bell>();
  Carrier carrier(2, bell);
  for (int round = 0; round < 200; ++round) {
    std::atomic<bool> go{false};
    std::atomic<bool> done{false};
    Seat* const seat = &carrier.seat(round % 2);
    seat->Post([&, seat] {
      EXPECT_TRUE(seat->Wait([&] { return go.load(); }, absl::Now() + absl::Seconds(30)));
      done = true;
    });
    // Sometimes it polls still, sometimes it sleeps.
    absl::SleepFor(absl::Microseconds(round % 4 * 50));
    go = true;
    bell->Ring();
    const absl::Time limit = absl::Now() + absl::Seconds(30);
    while (!done && absl::Now() < limit) std::this_thread::yield();
    ASSERT_TRUE(done) << round;
  }
}

TEST(CarrierTest, StopGivesUpOnARankThatHangs) {
  const auto release = std::make_shared<std::atomic<bool>>(false);
  const auto ended = std::make_shared<std::atomic<bool>>(false);
  {
    Carrier carrier(2, std::make_shared<Bell>());
    Seat* const seat = &carrier.seat(0);
    seat->Post([release, ended] {
      while (!*release) absl::SleepFor(absl::Milliseconds(1));
      *ended = true;
    });
    EXPECT_FALSE(carrier.Stop(absl::Now() + absl::Milliseconds(50)));
  }
  // What the thread uses is still there.
  *release = true;
  const absl::Time limit = absl::Now() + absl::Seconds(30);
  while (!*ended && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(*ended);
  absl::SleepFor(absl::Milliseconds(20));
}

// Ranks on two threads walk through the same meetings with random work between them.
TEST(CarrierTest, RanksOfSeveralThreadsMeetInStep) {
  constexpr int kRanks = 5;
  constexpr int kMeetings = 2000;
  const auto bell = std::make_shared<Bell>();
  std::atomic<int> arrived{0};
  std::atomic<int> early{0};
  Carrier first(2, bell);
  Carrier second(3, bell);
  for (int rank = 0; rank < kRanks; ++rank) {
    Seat* const seat = rank < 2 ? &first.seat(rank) : &second.seat(rank - 2);
    seat->Post([&, seat, rank] {
      std::minstd_rand random(rank + 1);
      for (int meeting = 1; meeting <= kMeetings; ++meeting) {
        for (unsigned i = random() % 3; i > 0; --i) seat->Yield();
        if (random() % 500 == 0) absl::SleepFor(absl::Microseconds(200));
        arrived.fetch_add(1);
        bell->Ring();
        EXPECT_TRUE(seat->Wait([&] { return arrived.load() >= meeting * kRanks; },
                               absl::Now() + absl::Seconds(60)));
        if (arrived.load() > (meeting + 1) * kRanks) early.fetch_add(1);
      }
    });
  }
  EXPECT_TRUE(first.Stop(absl::Now() + absl::Seconds(60)));
  EXPECT_TRUE(second.Stop(absl::Now() + absl::Seconds(60)));
  EXPECT_EQ(arrived.load(), kRanks * kMeetings);
  EXPECT_EQ(early.load(), 0);
}

}  // namespace
}  // namespace tessera
