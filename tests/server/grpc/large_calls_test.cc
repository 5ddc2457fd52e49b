// Large messages must not keep everyone else waiting.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "server/call_workers.h"
#include "server/grpc/drain.h"
#include "tests/server/grpc/service_fixture.h"

namespace tessera {
namespace {

constexpr int kThreads = CallWorkers::kThreads;
constexpr int kMost = CallWorkers::kThreads + CallWorkers::kMaxQueued;  // that are not refused
const std::string& LargeText() {
  static const std::string text(2 * CallWorkers::kSmallCallBytes, 'a');
  return text;
}

// Holds every large text until it is let go.
class HoldingEncoder : public FakeEncoder {
 public:
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  bool parse_special) const override {
    if (text.size() >= LargeText().size()) {
      ++num_begun_;
      released_.WaitForNotification();
    }
    return FakeEncoder::EncodeText(text, parse_special);
  }
  int num_begun() const { return num_begun_; }
  void Release() const { released_.Notify(); }

 private:
  mutable std::atomic<int> num_begun_ = 0;
  mutable absl::Notification released_;
};

// A Generate call on a thread of its own.
class Call {
 public:
  Call(v1::Inference::Stub& stub, absl::Duration timeout = absl::Seconds(60)) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    thread_ = std::thread([this, &stub] {
      v1::GenerateResponse response;
      status_ = stub.Generate(&context_, Request(LargeText(), 3), &response);
      EXPECT_EQ(status_.ok() ? response.choices(0).text() : "aaa", "aaa");
    });
  }
  ~Call() { Wait(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void Cancel() { context_.TryCancel(); }
  grpc::StatusCode Wait() {
    if (thread_.joinable()) thread_.join();
    return status_.error_code();
  }
  bool AsksToRetry() const {
    return context_.GetServerTrailingMetadata().count("grpc-retry-pushback-ms") == 1;
  }

 private:
  grpc::ClientContext context_;
  grpc::Status status_;
  std::thread thread_;
};

class LargeCallsTest : public testing::Test {
 protected:
  LargeCallsTest() : f_({}, {}, Model(encoder_)) {}
  ~LargeCallsTest() override {
    if (!released_) Release();
  }

  static ServedModel Model(std::shared_ptr<const PromptEncoder> encoder) {
    ServedModel model = FakeServedModel(1 << 20);
    model.encoder = std::move(encoder);
    return model;
  }
  std::unique_ptr<Call> Start(absl::Duration timeout = absl::Seconds(60)) {
    return std::make_unique<Call>(f_.stub(), timeout);
  }
  // Fills the threads, then the queue.
  void Fill() {
    for (int i = 0; i < kThreads; ++i) calls_.push_back(Start());
    Await([&] { return encoder_->num_begun() == kThreads; });
    for (int i = kThreads; i < kMost; ++i) calls_.push_back(Start());
    AwaitQueued(CallWorkers::kMaxQueued);
  }
  void AwaitQueued(int count) {
    Await([&] { return f_.Metric("tessera_large_requests_queued") == count; });
  }
  template <typename Condition>
  void Await(const Condition& condition) {
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while (!condition() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_TRUE(condition());
  }
  void Release() {
    released_ = true;
    encoder_->Release();
  }

  const std::shared_ptr<HoldingEncoder> encoder_ = std::make_shared<HoldingEncoder>();
  Fixture f_;
  std::vector<std::unique_ptr<Call>> calls_;
  bool released_ = false;
};

TEST_F(LargeCallsTest, OthersDoNotWaitForThem) {
  Fill();
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(Stream(f_.stub(), Request("abc", 2)).status.ok());
    v1::TokenizeRequest tokenize;
    tokenize.set_text("hi");
    v1::TokenizeResponse ids;
    grpc::ClientContext context;
    EXPECT_TRUE(f_.stub().Tokenize(&context, tokenize, &ids).ok());
  }
  EXPECT_EQ(encoder_->num_begun(), kThreads);
  Release();
  for (auto& call : calls_) EXPECT_EQ(call->Wait(), grpc::StatusCode::OK);
  EXPECT_EQ(encoder_->num_begun(), kMost);
}

TEST_F(LargeCallsTest, OneTooManyIsRefusedUnread) {
  Fill();
  const auto generate = Start();
  EXPECT_EQ(generate->Wait(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(generate->AsksToRetry());
  v1::TokenizeRequest tokenize;
  tokenize.set_text(LargeText());
  v1::TokenizeResponse ids;
  grpc::ClientContext context;
  EXPECT_EQ(f_.stub().Tokenize(&context, tokenize, &ids).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1U);
  EXPECT_EQ(encoder_->num_begun(), kThreads);
  EXPECT_EQ(f_.Metric("tessera_rejected_total{reason=\"overloaded\"}"), 1);
  EXPECT_EQ(f_.Calls("Generate", "RESOURCE_EXHAUSTED"), 1);
  EXPECT_EQ(f_.Calls("Tokenize", "RESOURCE_EXHAUSTED"), 1);
}

TEST_F(LargeCallsTest, WhoGoesWhileQueuedLeavesThePlaceToOthers) {
  Fill();
  calls_.back()->Cancel();
  EXPECT_EQ(calls_.back()->Wait(), grpc::StatusCode::CANCELLED);
  AwaitQueued(CallWorkers::kMaxQueued - 1);
  const auto late = Start(absl::Milliseconds(200));
  EXPECT_EQ(late->Wait(), grpc::StatusCode::DEADLINE_EXCEEDED);
  AwaitQueued(CallWorkers::kMaxQueued - 1);
  v1::TokenizeRequest tokenize;
  tokenize.set_text(LargeText());
  v1::TokenizeResponse ids;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  EXPECT_EQ(f_.stub().Tokenize(&context, tokenize, &ids).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  AwaitQueued(CallWorkers::kMaxQueued - 1);
  Await([&] { return f_.Metric("tessera_cancelled_total{stage=\"prefill\"}") == 2; });
  const auto last = Start();
  AwaitQueued(CallWorkers::kMaxQueued);
  Release();
  EXPECT_EQ(last->Wait(), grpc::StatusCode::OK);
  EXPECT_EQ(encoder_->num_begun(), kMost);
}

TEST_F(LargeCallsTest, WhoGoesWhileBeingReadNeverReachesTheEngine) {
  for (int i = 0; i < kThreads; ++i) calls_.push_back(Start());
  Await([&] { return encoder_->num_begun() == kThreads; });
  for (auto& call : calls_) call->Cancel();
  for (auto& call : calls_) EXPECT_EQ(call->Wait(), grpc::StatusCode::CANCELLED);
  Await([&] { return f_.Calls("Generate", "CANCELLED") == kThreads; });
  Release();
  f_.context().gate.Close(absl::InfiniteDuration());
  EXPECT_EQ(f_.engine().num_submitted(), 0);
  EXPECT_EQ(f_.context().active.size(), 0);
}

TEST_F(LargeCallsTest, ADrainFinishesWhatIsQueued) {
  Fill();
  std::thread drain(
      [&] { DrainServer({.timeout = absl::Seconds(30)}, &f_.context(), &f_.server()); });
  Await([&] { return !f_.context().gate.BeginSubmission().has_value(); });
  Release();
  drain.join();
  for (auto& call : calls_) EXPECT_EQ(call->Wait(), grpc::StatusCode::OK);
}

TEST_F(LargeCallsTest, ADrainGivesUpWhatIsQueuedWhenItsTimeIsOver) {
  Fill();
  std::thread drain(
      [&] { DrainServer({.timeout = absl::Milliseconds(20)}, &f_.context(), &f_.server()); });
  Await([&] { return f_.context().gate.HasGivenUp(); });
  Release();
  drain.join();
  for (size_t i = kThreads; i < calls_.size(); ++i) {
    EXPECT_EQ(calls_[i]->Wait(), grpc::StatusCode::UNAVAILABLE);
  }
  EXPECT_EQ(encoder_->num_begun(), kThreads);
}

}  // namespace
}  // namespace tessera
