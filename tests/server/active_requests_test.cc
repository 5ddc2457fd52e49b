#include "server/active_requests.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

const TenantClaim kNobody;
const TenantClaim kFlood{.name = "flood"};
const TenantClaim kOther{.name = "other"};

TEST(ActiveRequestsTest, OneTenantHasTheWholeLimit) {
  ActiveRequests active(3);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(active.Enter(kNobody).ok());
  EXPECT_EQ(active.Enter(kNobody).code(), absl::StatusCode::kResourceExhausted);
  active.Leave(kNobody);
  active.Linger(kNobody);
  EXPECT_FALSE(active.Enter(kNobody).ok());
}

TEST(ActiveRequestsTest, ATenantDoesNotShutOthersOut) {
  ActiveRequests active(8);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(active.Enter(kFlood).ok());
  EXPECT_FALSE(active.Enter(kFlood).ok());
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(active.Enter(kOther).ok());
  EXPECT_FALSE(active.Enter(kOther).ok());  // it has its half
  EXPECT_EQ(active.size(), 12);
  // The flood comes in again when it has less than its half, or there is room for everybody.
  for (int i = 0; i < 4; ++i) active.Leave(kFlood);
  EXPECT_FALSE(active.Enter(kFlood).ok());
  active.Leave(kFlood);
  EXPECT_TRUE(active.Enter(kFlood).ok());
  for (int i = 0; i < 4; ++i) active.Leave(kOther);
  for (int i = 0; i < 4; ++i) active.Leave(kFlood);
  EXPECT_EQ(active.size(), 0);
}

TEST(ActiveRequestsTest, EvenASmallLimitHasRoomForTwo) {
  ActiveRequests active(1);
  ASSERT_TRUE(active.Enter(kFlood).ok());
  EXPECT_TRUE(active.Enter(kOther).ok());
  EXPECT_FALSE(active.Enter(kOther).ok());
  EXPECT_FALSE(active.Enter({.name = "third"}).ok());
}

TEST(ActiveRequestsTest, PartsGoByWeightAndStayBelowTwiceTheLimit) {
  ActiveRequests active(12);
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(active.Enter(kFlood).ok());
  int heavy = 0;
  while (active.Enter({.name = "heavy", .weight = 2}).ok()) ++heavy;
  EXPECT_EQ(heavy, 8);
  for (int tenant = 0; tenant < 30; ++tenant) {
    while (active.Enter({.name = absl::StrCat(tenant)}).ok()) {
    }
  }
  EXPECT_EQ(active.size(), 24);
}

}  // namespace
}  // namespace tessera
