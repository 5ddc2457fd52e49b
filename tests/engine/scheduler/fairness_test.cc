#include "engine/scheduler/fairness.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "engine/scheduler/queue_limits.h"
#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;

ServiceOrder Order(uint64_t id, int32_t priority, absl::Duration queued) {
  auto request = MakeRequest(1);
  request->priority = priority;
  return ServiceOrder::Of(*MakeSequence(id, request, absl::UnixEpoch() + queued),
                          absl::Seconds(10));
}

TEST(ServiceOrder, FollowsPriorityThenArrivalAndAges) {
  EXPECT_LT(Order(1, 0, absl::Seconds(0)), Order(2, 0, absl::Seconds(1)));
  EXPECT_LT(Order(2, 0, absl::Seconds(1)), Order(1, 1, absl::Seconds(0)));
  EXPECT_LT(Order(1, 1, absl::Seconds(0)), Order(2, 0, absl::Seconds(11)));
  EXPECT_LT(Order(1, 0, absl::Seconds(0)), Order(2, 0, absl::Seconds(0)));
}

TEST(ServiceOrder, ExtremePrioritiesStayOrdered) {
  const auto lowest = std::numeric_limits<int32_t>::min();
  const auto highest = std::numeric_limits<int32_t>::max();
  EXPECT_LT(Order(2, lowest, absl::Hours(1)), Order(1, 0, absl::Seconds(0)));
  EXPECT_LT(Order(2, 0, absl::Hours(1)), Order(1, highest, absl::Seconds(0)));
}

RequestId Id(uint64_t id) { return RequestId{id}; }

TEST(QueueLimits, CapsRequestsAndTokens) {
  SchedulerOptions options;
  options.max_queued_requests = 3;
  options.max_queued_tokens = 100;
  QueueLimits limits(options);
  const QueuedRequest first{.id = Id(1), .tokens = 60};
  EXPECT_TRUE(limits.Enter(first).ok());
  EXPECT_EQ(limits.Enter({.id = Id(2), .tokens = 41}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(limits.Enter({.id = Id(3), .tokens = 40}).ok());
  EXPECT_FALSE(limits.Enter({.id = Id(4), .tokens = 1}).ok());
  limits.Leave(first);
  limits.Leave(first);
  EXPECT_TRUE(limits.Enter({.id = Id(5), .tokens = 1}).ok());
  EXPECT_TRUE(limits.Enter({.id = Id(6), .tokens = 1}).ok());
  EXPECT_EQ(limits.Enter({.id = Id(7), .tokens = 1}).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(limits.num_requests(), 3);
  EXPECT_EQ(limits.num_tokens(), 42);
}

TEST(QueueLimits, AnEmptyQueueTakesALongPrompt) {
  SchedulerOptions options;
  options.max_queued_tokens = 10;
  QueueLimits limits(options);
  EXPECT_TRUE(limits.Enter({.id = Id(1), .tokens = 1000}).ok());
  EXPECT_FALSE(limits.Enter({.id = Id(2), .tokens = 1}).ok());
}

TEST(QueueLimits, TheLeastImportantMakeRoom) {
  SchedulerOptions options;
  options.max_queued_requests = 4;
  options.max_queued_tokens = 100;
  QueueLimits limits(options);
  for (const uint64_t id : {1, 2, 3, 4}) {
    const int32_t priority = id == 2 ? 9 : 5;
    ASSERT_TRUE(limits.Enter({.id = Id(id), .priority = priority, .tokens = 20}).ok());
  }
  EXPECT_EQ(limits.num_before(4, {}), 0);
  EXPECT_EQ(limits.num_before(5, {}), 3);
  EXPECT_EQ(limits.num_before(9, {}), 4);
  // Nobody is less important than this one.
  EXPECT_FALSE(limits.Enter({.id = Id(5), .priority = 9, .tokens = 1}).ok());
  EXPECT_THAT(*limits.Enter({.id = Id(6), .priority = 5, .tokens = 20}), ElementsAre(Id(2)));
  EXPECT_FALSE(limits.Enter({.id = Id(7), .priority = 5, .tokens = 1}).ok());
  // As many as it takes, the last first.
  EXPECT_THAT(*limits.Enter({.id = Id(8), .priority = 0, .tokens = 60}), ElementsAre(Id(6), Id(4)));
  EXPECT_EQ(limits.num_tokens(), 100);
  EXPECT_EQ(limits.num_before(0, {}), 1);
  // Nobody leaves in vain.
  EXPECT_FALSE(limits.Enter({.id = Id(9), .priority = 1, .tokens = 90}).ok());
  EXPECT_EQ(limits.num_requests(), 3);
}

TEST(QueueLimits, ATenantCannotFillTheQueueForOthers) {
  SchedulerOptions options;
  options.max_queued_requests = 8;
  QueueLimits limits(options);
  for (uint64_t id = 1; id <= 8; ++id) {
    ASSERT_TRUE(limits.Enter({.id = Id(id), .tokens = 10, .tenant = "flood"}).ok());
  }
  EXPECT_FALSE(limits.Enter({.id = Id(9), .tokens = 10, .tenant = "flood"}).ok());
  EXPECT_EQ(limits.num_before(0, {.name = "flood"}), 8);
  // Of those who would run before it there is one of each other tenant for each of its own.
  EXPECT_EQ(limits.num_before(0, {.name = "other"}), 1);
  EXPECT_EQ(limits.num_before(0, {.name = "other", .weight = 0.5}), 2);
  EXPECT_EQ(limits.num_before(1, {.name = "other"}), 8);
  // Who came last leaves, until both have the same.
  for (uint64_t id = 11; id <= 14; ++id) {
    EXPECT_THAT(*limits.Enter({.id = Id(id), .tokens = 10, .tenant = "other"}),
                ElementsAre(Id(19 - id)));
  }
  EXPECT_FALSE(limits.Enter({.id = Id(15), .tokens = 10, .tenant = "other"}).ok());
  EXPECT_FALSE(limits.Enter({.id = Id(16), .tokens = 10, .tenant = "flood"}).ok());
  EXPECT_EQ(limits.num_before(0, {.name = "other"}), 8);
  const std::vector<TenantBacklog> backlogs = limits.Backlogs();
  ASSERT_EQ(backlogs.size(), 2U);
  EXPECT_EQ(backlogs[1].tenant, "other");
  EXPECT_EQ(backlogs[1].requests, 4);
  EXPECT_EQ(backlogs[1].tokens, 40);
  // A third one takes from both in turn; one of more weight may have more.
  EXPECT_EQ(limits.Enter({.id = Id(21), .tokens = 10, .tenant = "third", .weight = 3})->size(), 1U);
  for (uint64_t id = 22; id <= 25; ++id) {
    EXPECT_TRUE(limits.Enter({.id = Id(id), .tokens = 10, .tenant = "third", .weight = 3}).ok());
  }
  for (const TenantBacklog& backlog : limits.Backlogs()) {
    EXPECT_EQ(backlog.requests, backlog.tenant == "third"   ? 5
                                : backlog.tenant == "flood" ? 1
                                                            : 2)
        << backlog.tenant;
  }
}

TEST(QueueLimits, NobodyOfATenantLeavesInVain) {
  SchedulerOptions options;
  options.max_queued_tokens = 100;
  QueueLimits limits(options);
  for (uint64_t id = 1; id <= 5; ++id) {
    ASSERT_TRUE(limits.Enter({.id = Id(id), .tokens = 20, .tenant = "flood"}).ok());
  }
  // It would have more than is left to the other.
  EXPECT_FALSE(limits.Enter({.id = Id(6), .tokens = 70, .tenant = "other"}).ok());
  EXPECT_EQ(limits.num_requests(), 5);
  EXPECT_EQ(limits.num_tokens(), 100);
  EXPECT_THAT(*limits.Enter({.id = Id(7), .tokens = 40, .tenant = "other"}),
              ElementsAre(Id(5), Id(4)));
  EXPECT_EQ(limits.num_tokens(), 100);
}

}  // namespace
}  // namespace tessera
