#include "server/call_workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tessera {
namespace {

TEST(CallWorkersTest, RunsInOrderWhatItHasTaken) {
  std::vector<int> order;
  {
    CallWorkers workers;
    absl::Notification go;
    for (int i = 1; i < CallWorkers::kThreads; ++i) {  // one thread is left
      ASSERT_TRUE(workers.Add([&] { go.WaitForNotification(); }).ok());
    }
    while (workers.num_queued() > 0) absl::SleepFor(absl::Milliseconds(1));
    absl::Notification done;
    for (int i = 0; i < CallWorkers::kMaxQueued; ++i) {
      ASSERT_TRUE(workers
                      .Add([&order, &done, i] {
                        order.push_back(i);
                        if (i == CallWorkers::kMaxQueued - 1) done.Notify();
                      })
                      .ok());
    }
    done.WaitForNotification();
    go.Notify();
  }
  for (int i = 0; i < CallWorkers::kMaxQueued; ++i) EXPECT_EQ(order[i], i);
}

TEST(CallWorkersTest, WhatIsRemovedOrRefusedNeverRunsAndIsGone) {
  CallWorkers workers;
  absl::Notification go;
  for (int i = 0; i < CallWorkers::kThreads; ++i) {
    ASSERT_TRUE(workers.Add([&] { go.WaitForNotification(); }).ok());
  }
  while (workers.num_queued() > 0) absl::SleepFor(absl::Milliseconds(1));
  const auto held = std::make_shared<int>(0);
  std::vector<CallWorkers::Ticket> tickets;
  for (int i = 0; i < CallWorkers::kMaxQueued; ++i) {
    const auto ticket = workers.Add([held] { ++*held; });
    ASSERT_TRUE(ticket.ok());
    tickets.push_back(*ticket);
  }
  EXPECT_EQ(workers.Add([held] { ++*held; }).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(held.use_count(), 1 + CallWorkers::kMaxQueued);
  for (const CallWorkers::Ticket ticket : tickets) {
    EXPECT_TRUE(workers.Remove(ticket));
    EXPECT_FALSE(workers.Remove(ticket));
  }
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(workers.num_queued(), 0);
  go.Notify();
  EXPECT_EQ(*held, 0);
}

// From many threads at once: every piece runs once, or is removed, or is refused.
TEST(CallWorkersTest, NothingIsLostAndNothingRunsTwice) {
  constexpr int kCallers = 4;
  constexpr int kPieces = 2000;
  std::atomic<int> ran = 0;
  std::atomic<int> removed = 0;
  std::atomic<int> refused = 0;
  {
    CallWorkers workers;
    std::vector<std::thread> callers;
    for (int c = 0; c < kCallers; ++c) {
      callers.emplace_back([&, c] {
        for (int i = 0; i < kPieces; ++i) {
          auto text = std::make_unique<int>(i);
          const auto ticket = workers.Add([&ran, mine = std::move(text)] { ++ran; });
          if (!ticket.ok()) {
            ++refused;
          } else if ((i + c) % 3 == 0 && workers.Remove(*ticket)) {
            ++removed;
          }
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    while (workers.num_queued() > 0) absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(ran + removed + refused, kCallers * kPieces);
}

}  // namespace
}  // namespace tessera
