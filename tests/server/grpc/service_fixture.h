// A service on a loopback connection, with an engine that echoes.
#ifndef TESSERA_TESTS_SERVER_GRPC_SERVICE_FIXTURE_H_
#define TESSERA_TESTS_SERVER_GRPC_SERVICE_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/grpc/grpc_server.h"
#include "server/inference_context.h"
#include "tessera/v1/inference.grpc.pb.h"
#include "tests/server/fake_engine.h"
#include "tests/server/fake_model.h"

namespace tessera {

// A server with everything around it.
class Fixture {
 public:
  explicit Fixture(FakeEngineOptions options = {}, ServiceLimits limits = {},
                   ServedModel model = FakeServedModel())
      : model_(std::move(model)),
        engine_(options),
        context_(&model_, &engine_, &metrics_, EngineOptions{}, limits) {
    metrics_.Attach({.engine = &engine_,
                     .active_requests = [this] { return context_.active.size(); },
                     .large_requests_queued = [this] { return context_.workers.num_queued(); },
                     .block_size = 16});
    auto server = GrpcServer::Start(&context_, {.port = 0});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->SetServing(true);
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetMaxSendMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(address(), grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  std::string address() const { return absl::StrCat("127.0.0.1:", server_->port()); }
  v1::Inference::Stub& stub() { return *stub_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  FakeEngine& engine() { return engine_; }
  InferenceContext& context() { return context_; }
  GrpcServer& server() { return *server_; }

  // A call stops counting a moment after its client has its end.
  bool AwaitNoActiveCalls() const {
    for (int tries = 0; context_.active.size() != 0; ++tries) {
      if (tries == 10'000) return false;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return true;
  }
  // The value of a series such as `tessera_x_total{code="OK"}`, 0 when it is absent.
  double Metric(const std::string& series) const {
    for (const auto& line : absl::StrSplit(metrics_.Render(), '\n')) {
      if (!absl::StartsWith(line, absl::StrCat(series, " "))) continue;
      double value = 0;
      EXPECT_TRUE(absl::SimpleAtod(line.substr(series.size() + 1), &value));
      return value;
    }
    return 0;
  }
  double Calls(const std::string& method, const std::string& code) const {
    return Metric(
        absl::StrCat("tessera_requests_total{code=\"", code, "\",method=\"", method, "\"}"));
  }

 private:
  ServedModel model_;
  MetricsRecorder metrics_;
  FakeEngine engine_;
  InferenceContext context_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

inline v1::GenerateRequest Request(const std::string& text, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

struct StreamResult {
  grpc::Status status;
  std::string text;
  int num_messages = 0;
  int32_t completion_tokens = 0;
};

inline StreamResult Stream(v1::Inference::Stub& stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  auto reader = stub.StreamGenerate(&context, request);
  StreamResult result;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    ++result.num_messages;
    for (const v1::Choice& choice : response.choices()) result.text += choice.text();
    result.completion_tokens = response.usage().completion_tokens();
  }
  result.status = reader->Finish();
  return result;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_SERVER_GRPC_SERVICE_FIXTURE_H_
