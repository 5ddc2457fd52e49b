// The end of a server: nothing is lost, nothing holds it up.
#include "server/grpc/drain.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "tests/server/grpc/service_fixture.h"

namespace tessera {
namespace {

// Takes its time, so that a test can act in the middle of a submission.
class SlowEncoder : public FakeEncoder {
 public:
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  bool parse_special) const override {
    if (!begun_.HasBeenNotified()) begun_.Notify();
    absl::SleepFor(absl::Milliseconds(200));
    return FakeEncoder::EncodeText(text, parse_special);
  }
  void AwaitBegin() const { begun_.WaitForNotification(); }

 private:
  mutable absl::Notification begun_;
};

TEST(DrainTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  Fixture f({.step = absl::Milliseconds(2)});
  StreamResult result;
  std::thread client([&] { result = Stream(f.stub(), Request("abc", 100)); });
  while (f.engine().num_running() == 0) absl::SleepFor(absl::Milliseconds(1));
  f.context().gate.Close(absl::InfiniteDuration());
  EXPECT_EQ(Stream(f.stub(), Request("abc", 1)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  DrainServer({.timeout = absl::Seconds(10)}, &f.context(), &f.server());
  client.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.completion_tokens, 100);
}

TEST(DrainTest, DrainFinishesWhatIsStillOnItsWayToTheEngine) {
  const auto encoder = std::make_shared<SlowEncoder>();
  ServedModel model = FakeServedModel();
  model.encoder = encoder;
  Fixture f({}, {}, model);
  StreamResult result;
  std::thread client([&] { result = Stream(f.stub(), Request("abc", 100)); });
  encoder->AwaitBegin();
  DrainServer({.timeout = absl::Seconds(10)}, &f.context(), &f.server());
  client.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.completion_tokens, 100);
}

TEST(DrainTest, DrainWaitsForClientsThatReadSlowly) {
  Fixture f({.step = absl::ZeroDuration(), .bytes_per_token = 4096});
  constexpr int kTokens = 50;  // more than the connection buffers, less than evicts
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // the window of the connection stays small
  const auto channel =
      grpc::CreateCustomChannel(f.address(), grpc::InsecureChannelCredentials(), arguments);
  const auto stub = v1::Inference::NewStub(channel);
  grpc::ClientContext context;
  auto reader = stub->StreamGenerate(&context, Request("abc", kTokens));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::thread drain(
      [&] { DrainServer({.timeout = absl::Seconds(10)}, &f.context(), &f.server()); });
  EXPECT_TRUE(f.engine().WaitIdle());
  absl::SleepFor(absl::Milliseconds(500));
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.usage().completion_tokens(), kTokens);
  drain.join();
}

TEST(DrainTest, DrainInAHurryWaitsForNobody) {
  Fixture f({.step = absl::ZeroDuration(), .bytes_per_token = 4096});
  grpc::ClientContext context;
  auto reader = f.stub().StreamGenerate(&context, Request("abc", 50));
  v1::GenerateResponse first;
  ASSERT_TRUE(reader->Read(&first));
  EXPECT_TRUE(f.engine().WaitIdle());
  f.context().gate.Hurry();
  const absl::Time begun = absl::Now();
  DrainServer({.delay = absl::Seconds(60), .timeout = absl::Seconds(60)}, &f.context(),
              &f.server());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
}

TEST(DrainTest, AnIdleConnectionDoesNotHoldUpADrain) {
  Fixture f;
  ASSERT_TRUE(Stream(f.stub(), Request("abc", 1)).status.ok());
  const absl::Time begun = absl::Now();
  DrainServer({.timeout = absl::Seconds(60)}, &f.context(), &f.server());
  EXPECT_LT(absl::Now() - begun, absl::Seconds(1));
}

TEST(DrainTest, WhatIsLeftAtTheDrainDeadlineEndsUnavailable) {
  Fixture f;
  StreamResult result;
  std::thread client([&] { result = Stream(f.stub(), Request("abc", 4000)); });
  while (f.engine().num_running() == 0) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_TRUE(f.engine().Drain(absl::Now() + absl::Milliseconds(50)).ok());
  client.join();
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace tessera
