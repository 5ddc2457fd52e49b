// What code behind the service throws ends the request it worked for, never the process.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "server/call_workers.h"
#include "tests/server/grpc/service_fixture.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

// Throws when it meets a word.
class ThrowingEncoder : public FakeEncoder {
 public:
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  bool parse_special) const override {
    ThrowAt(text);
    return FakeEncoder::EncodeText(text, parse_special);
  }
  absl::StatusOr<std::string> RenderChat(const Conversation& input) const override {
    ThrowAt(input.messages_json);
    return FakeEncoder::RenderChat(input);
  }
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override {
    std::string text = FakeEncoder::Decode(ids, skip_special);
    ThrowAt(text);
    return text;
  }

 private:
  static void ThrowAt(std::string_view text) {
    if (text.find("memory") != std::string_view::npos) throw std::bad_alloc();
    if (text.find("error") != std::string_view::npos) throw std::runtime_error("the reason");
    if (text.find("thing") != std::string_view::npos) throw 7;  // NOLINT: what a library may do
  }
};

struct Thrown {
  std::string word;
  grpc::StatusCode code;
  std::string name;
  std::string words;  // of the status
};

class ThrownExceptionsTest : public testing::TestWithParam<std::tuple<Thrown, bool>> {
 protected:
  ThrownExceptionsTest() : f_({}, {}, Model()) {}

  static ServedModel Model() {
    ServedModel model = FakeServedModel(1 << 20);
    model.encoder = std::make_shared<ThrowingEncoder>();
    return model;
  }
  const Thrown& thrown() const { return std::get<0>(GetParam()); }
  // Small requests are handled on gRPC's threads, large ones elsewhere.
  std::string Text() const {
    const bool large = std::get<1>(GetParam());
    return thrown().word + std::string(large ? 2 * CallWorkers::kSmallCallBytes : 0, ' ');
  }
  void ExpectThrown(const grpc::Status& status, const char* method) const {
    EXPECT_EQ(status.error_code(), thrown().code) << status.error_message();
    EXPECT_EQ(f_.Calls(method, thrown().name), 1) << method;
  }

  Fixture f_;
};

TEST_P(ThrownExceptionsTest, EndAGenerationWithAStatus) {
  v1::GenerateRequest chat;
  v1::ChatMessage* message = chat.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(Text());
  chat.mutable_stopping()->set_max_tokens(1);
  grpc::ClientContext context;
  v1::GenerateResponse response;
  const grpc::Status status = f_.stub().Generate(&context, chat, &response);
  ExpectThrown(status, "Generate");
  const bool retry = context.GetServerTrailingMetadata().count("grpc-retry-pushback-ms") == 1;
  EXPECT_EQ(retry, thrown().code == grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr(thrown().words));
  ExpectThrown(Stream(f_.stub(), Request(Text(), 1)).status, "StreamGenerate");

  EXPECT_TRUE(f_.AwaitNoActiveCalls());
  EXPECT_EQ(f_.Metric("tessera_rejected_total{reason=\"overloaded\"}") +
                f_.Metric("tessera_rejected_total{reason=\"other\"}"),
            2);
  EXPECT_TRUE(Stream(f_.stub(), Request("abc", 5)).status.ok());
  f_.context().gate.Close(absl::ZeroDuration());  // hangs when a submission is still counted
}

TEST_P(ThrownExceptionsTest, EndATokenizationWithAStatus) {
  v1::TokenizeRequest request;
  request.set_text(Text());
  grpc::ClientContext context;
  v1::TokenizeResponse ids;
  ExpectThrown(f_.stub().Tokenize(&context, request, &ids), "Tokenize");

  v1::DetokenizeRequest back;
  for (const char c : Text()) back.add_token_ids(c);
  grpc::ClientContext other;
  v1::DetokenizeResponse text;
  ExpectThrown(f_.stub().Detokenize(&other, back, &text), "Detokenize");

  request.set_text("abc");
  grpc::ClientContext third;
  EXPECT_TRUE(f_.stub().Tokenize(&third, request, &ids).ok());
}

INSTANTIATE_TEST_SUITE_P(
    All, ThrownExceptionsTest,
    testing::Combine(
        testing::Values(Thrown{"error", grpc::StatusCode::INTERNAL, "INTERNAL", "the reason"},
                        Thrown{"thing", grpc::StatusCode::INTERNAL, "INTERNAL", "failed"},
                        Thrown{"memory", grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED",
                               "memory"}),
        testing::Bool()),
    [](const auto& parameters) {
      return std::get<0>(parameters.param).word +
             (std::get<1>(parameters.param) ? "Large" : "Small");
    });

}  // namespace
}  // namespace tessera
