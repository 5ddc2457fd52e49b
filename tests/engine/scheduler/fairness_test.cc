#include "engine/scheduler/fairness.h"

#include <gtest/gtest.h>

#include <limits>

#include "engine/scheduler/queue_limits.h"
#include "tests/engine/scheduler/scheduler_fixture.h"

namespace tessera {
namespace {

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

TEST(QueueLimits, CapsRequestsAndTokens) {
  SchedulerOptions options;
  options.max_queued_requests = 3;
  options.max_queued_tokens = 100;
  QueueLimits limits(options);
  EXPECT_TRUE(limits.Enter(60).ok());
  EXPECT_EQ(limits.Enter(41).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(limits.Enter(40).ok());
  EXPECT_FALSE(limits.Enter(1).ok());
  limits.Leave(60);
  EXPECT_TRUE(limits.Enter(1).ok());
  EXPECT_TRUE(limits.Enter(1).ok());
  EXPECT_EQ(limits.Enter(1).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(limits.num_requests(), 3);
  EXPECT_EQ(limits.num_tokens(), 42);
}

TEST(QueueLimits, AnEmptyQueueTakesALongPrompt) {
  SchedulerOptions options;
  options.max_queued_tokens = 10;
  QueueLimits limits(options);
  EXPECT_TRUE(limits.Enter(1000).ok());
  EXPECT_FALSE(limits.Enter(1).ok());
}

}  // namespace
}  // namespace tessera
