#include "server/commands/server_state.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "server/metrics/recorder.h"
#include "tests/server/fake_engine.h"
#include "tests/server/fake_model.h"

namespace tessera {
namespace {

class ServerStateTest : public testing::Test {
 protected:
  ServedModel model_ = FakeServedModel();
  FakeEngine engine_;
  MetricsRecorder metrics_;
  InferenceContext context_{&model_, &engine_, &metrics_, EngineOptions{}, ServiceLimits{}};
  ServerState state_;
};

TEST_F(ServerStateTest, SaysWhyNoRequestShouldCome) {
  EXPECT_EQ(state_.UnreadyReason(), "loading");
  absl::Status accepts;
  state_.Serve(&context_, [&accepts] { return accepts; });
  EXPECT_EQ(state_.UnreadyReason(), "");
  EXPECT_TRUE(state_.Ready().ok());
  accepts = absl::UnavailableError("nobody gets through");
  EXPECT_EQ(state_.UnreadyReason(), "not_accepting");
  EXPECT_EQ(state_.Ready(), accepts);
  state_.OnSignal(1);
  EXPECT_EQ(state_.UnreadyReason(), "draining");
  EXPECT_TRUE(state_.Healthy(absl::Seconds(1)).ok());
  state_.OnEngineDead(absl::InternalError("broken"));
  EXPECT_EQ(state_.UnreadyReason(), "failed");
  EXPECT_FALSE(state_.Healthy(absl::Seconds(1)).ok());
  EXPECT_EQ(state_.WaitForStop(), absl::InternalError("broken"));
}

TEST_F(ServerStateTest, NothingWaitsForAProbeThatWaits) {
  absl::Notification asked;
  absl::Notification go_on;
  state_.Serve(&context_, [&] {
    asked.Notify();
    go_on.WaitForNotification();
    return absl::OkStatus();
  });
  std::thread probe([this] { EXPECT_TRUE(state_.Ready().ok()); });
  asked.WaitForNotification();
  EXPECT_TRUE(state_.Healthy(absl::Seconds(1)).ok());
  state_.OnSignal(1);
  EXPECT_EQ(state_.Ready(), absl::UnavailableError("draining"));
  EXPECT_TRUE(state_.WaitForStop().ok());
  state_.Serve(nullptr, {});
  go_on.Notify();
  probe.join();
}

}  // namespace
}  // namespace tessera
