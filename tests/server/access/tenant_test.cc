#include "server/access/tenant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

using ::testing::HasSubstr;

constexpr absl::Time kStart = absl::UnixEpoch();

// Which limit refuses, or "" for a call that is let in.
std::string Enter(Tenant* tenant, absl::Duration at) {
  const auto refusal = tenant->Enter(kStart + at);
  return refusal ? kTenantLimitNames[static_cast<size_t>(refusal->limit)] : "";
}

TEST(TenantTest, WithoutLimitsEverybodyComesIn) {
  Tenant tenant("acme", {});
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
    tenant.UsePromptTokens(1'000'000);
  }
  EXPECT_EQ(tenant.counts().open, 1000);
  EXPECT_EQ(tenant.counts().prompt_tokens, 1'000'000'000);
}

TEST(TenantTest, RequestsComeAtTheirRateAndInBurstsOfASecond) {
  Tenant tenant("acme", {.requests_per_second = 4});
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  const auto refusal = tenant.Enter(kStart);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->delay, absl::Milliseconds(250));
  EXPECT_THAT(refusal->message, HasSubstr("\"acme\" has used its 4 requests per second"));
  EXPECT_EQ(Enter(&tenant, absl::Milliseconds(249)), "requests");
  EXPECT_EQ(Enter(&tenant, absl::Milliseconds(251)), "");
  EXPECT_EQ(Enter(&tenant, absl::Milliseconds(252)), "requests");
  // However long nobody came, it is a second's worth. Over ten seconds it is the rate.
  int let_in = 0;
  for (int ms = 100'000; ms < 110'000; ms += 10) {
    if (Enter(&tenant, absl::Milliseconds(ms)).empty()) ++let_in;
  }
  EXPECT_EQ(let_in, 4 + 39);
  EXPECT_EQ(tenant.counts().requests, 4 + 1 + let_in);
  EXPECT_EQ(tenant.counts().refused[static_cast<size_t>(TenantLimit::kRequests)],
            1 + 1 + 1 + 1000 - let_in);
}

TEST(TenantTest, LessThanOneRequestPerSecond) {
  Tenant tenant("acme", {.requests_per_second = 0.1});
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  EXPECT_EQ(Enter(&tenant, absl::Seconds(9)), "requests");
  EXPECT_EQ(Enter(&tenant, absl::Seconds(10.1)), "");
}

TEST(TenantTest, TokensAreOwedUntilTheyHaveComeIn) {
  Tenant tenant("acme", {.tokens_per_minute = 600});
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  tenant.UsePromptTokens(500);
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  tenant.UseGeneratedTokens(200);  // 100 more than there were
  const auto refusal = tenant.Enter(kStart);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->limit, TenantLimit::kTokens);
  EXPECT_NEAR(absl::ToDoubleSeconds(refusal->delay), 10.1, 1e-6);
  EXPECT_EQ(Enter(&tenant, absl::Seconds(9.9)), "tokens");
  EXPECT_EQ(Enter(&tenant, absl::Seconds(10.2)), "");
}

TEST(TenantTest, OpenCallsAreCounted) {
  Tenant tenant("acme", {.concurrent_streams = 2});
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "streams");
  tenant.Leave();
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  EXPECT_EQ(tenant.counts().open, 2);
}

// What was refused for one reason has used up nothing of the others.
TEST(TenantTest, ARefusalCostsNothing) {
  Tenant tenant("acme", {.requests_per_second = 1, .concurrent_streams = 1});
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Enter(&tenant, absl::Seconds(2)), "streams");
  tenant.Leave();
  EXPECT_EQ(Enter(&tenant, absl::Seconds(2)), "");
}

TEST(TenantTest, NewLimitsCountAtOnceAndForgiveNothing) {
  Tenant tenant("acme", {.tokens_per_minute = 60});
  EXPECT_EQ(Enter(&tenant, absl::ZeroDuration()), "");
  tenant.UsePromptTokens(90);
  EXPECT_EQ(tenant.claim().weight, 1);
  tenant.SetLimits({.tokens_per_minute = 120, .priority = 7, .weight = 3, .kv_share = 0.5});
  EXPECT_EQ(tenant.priority(), 7);
  EXPECT_EQ(tenant.claim().name, "acme");
  EXPECT_EQ(tenant.claim().weight, 3);
  EXPECT_EQ(tenant.claim().kv_share, 0.5);
  EXPECT_EQ(Enter(&tenant, absl::Seconds(1)), "tokens");
  EXPECT_EQ(Enter(&tenant, absl::Seconds(16)), "");
  tenant.SetLimits({});
  EXPECT_EQ(Enter(&tenant, absl::Seconds(16)), "");
}

}  // namespace
}  // namespace tessera
