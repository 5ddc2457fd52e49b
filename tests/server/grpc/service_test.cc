// The service over a loopback connection, with an engine that echoes.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tessera/v1/error_details.pb.h"
#include "tests/server/grpc/service_fixture.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

TEST(ServiceTest, GenerateAnswersInOneMessage) {
  Fixture f;
  grpc::ClientContext context;
  v1::GenerateResponse response;
  v1::GenerateRequest request = Request("abc", 5);
  request.set_n(2);
  request.set_request_id("mine");
  const grpc::Status status = f.stub().Generate(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id(), "mine");
  ASSERT_EQ(response.choices_size(), 2);
  for (const v1::Choice& choice : response.choices()) {
    EXPECT_EQ(choice.text(), "abcab");
    EXPECT_EQ(choice.token_ids_size(), 5);
    EXPECT_EQ(choice.finish().reason(), v1::Finish::REASON_LENGTH);
    EXPECT_EQ(choice.usage().completion_tokens(), 5);
  }
  EXPECT_EQ(response.usage().prompt_tokens(), 3);
  EXPECT_EQ(response.usage().completion_tokens(), 10);
}

TEST(ServiceTest, StreamCarriesDeltas) {
  Fixture f;
  const StreamResult result = Stream(f.stub(), Request("abc", 50));
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text.size(), 50U);
  EXPECT_EQ(result.text.substr(0, 7), "abcabca");
  EXPECT_GT(result.num_messages, 1);
  EXPECT_EQ(result.completion_tokens, 50);
}

TEST(ServiceTest, BadFieldsAreNamedInTheStatusDetails) {
  Fixture f;
  grpc::ClientContext context;
  v1::GenerateResponse response;
  v1::GenerateRequest request = Request("abc", 5);
  request.mutable_sampling()->set_top_p(2);
  const grpc::Status status = f.stub().Generate(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sampling.top_p"));
  v1::StatusDetails details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  EXPECT_EQ(details.details(0).type_url(), "type.googleapis.com/google.rpc.BadRequest");
  v1::BadRequest bad;
  ASSERT_TRUE(bad.ParseFromString(details.details(0).value()));
  EXPECT_EQ(bad.field_violations(0).field(), "sampling.top_p");
  EXPECT_EQ(Stream(f.stub(), request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(f.Calls("Generate", "INVALID_ARGUMENT"), 1);
  EXPECT_EQ(f.Calls("StreamGenerate", "INVALID_ARGUMENT"), 1);
  EXPECT_EQ(f.Metric("tessera_rejected_total{reason=\"invalid\"}"), 2);
}

// Sends bytes as the request of Generate.
grpc::Status SendRaw(Fixture& f, const std::string& bytes) {
  grpc::GenericStub stub(f.channel());
  grpc::ClientContext context;
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::CompletionQueue queue;
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, "/tessera.v1.Inference/Generate", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  return status;
}

TEST(ServiceTest, MalformedBytesAreInvalidArguments) {
  Fixture f;
  const std::string broken_utf8 = "\x1a\x02\xff\xfe";  // field 3 (text)
  for (const std::string& bytes : {std::string("\xff\xff\xff"), broken_utf8}) {
    const grpc::Status status = SendRaw(f, bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("UTF-8"));
  }
  EXPECT_EQ(f.Calls("Generate", "INVALID_ARGUMENT"), 2);
}

TEST(ServiceTest, MessagesAboveFourMebibytesAreRefused) {
  Fixture f;
  EXPECT_EQ(SendRaw(f, std::string((4 << 20) + 1, 'a')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(SendRaw(f, std::string(4 << 20, '\xff')).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(Stream(f.stub(), Request("abc", 5)).status.ok());
}

TEST(ServiceTest, CancelsFreeTheEngine) {
  Fixture f;
  constexpr int kCalls = 60;
  for (int i = 0; i < kCalls; ++i) {
    grpc::ClientContext context;
    auto reader = f.stub().StreamGenerate(&context, Request("abc", 4000));
    v1::GenerateResponse response;
    for (int reads = 0; reads < i % 4; ++reads) reader->Read(&response);
    if (i % 3 == 0) absl::SleepFor(absl::Milliseconds(i % 7));
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(f.engine().WaitIdle());
  EXPECT_TRUE(Stream(f.stub(), Request("abc", 5)).status.ok());
  EXPECT_TRUE(f.AwaitNoActiveCalls());
  EXPECT_EQ(f.Metric("tessera_stream_buffer_bytes"), 0);
}

TEST(ServiceTest, ACancelledUnaryCallFreesTheEngine) {
  Fixture f;
  grpc::ClientContext context;
  v1::GenerateResponse response;
  std::thread canceller([&] {
    while (f.engine().num_running() == 0) absl::SleepFor(absl::Milliseconds(1));
    context.TryCancel();
  });
  const grpc::Status status = f.stub().Generate(&context, Request("abc", 4000), &response);
  canceller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(f.engine().WaitIdle());
}

TEST(ServiceTest, DeadlinesReachTheEngine) {
  Fixture f;
  for (const bool stream : {false, true}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    v1::GenerateResponse response;
    grpc::Status status;
    if (stream) {
      auto reader = f.stub().StreamGenerate(&context, Request("abc", 4000));
      while (reader->Read(&response)) {
      }
      status = reader->Finish();
    } else {
      status = f.stub().Generate(&context, Request("abc", 4000), &response);
    }
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    EXPECT_TRUE(f.engine().WaitIdle());
  }
}

TEST(ServiceTest, SlowReadersAreEvictedAndOthersAreNot) {
  Fixture f({.step = absl::ZeroDuration(), .bytes_per_token = 4096});
  grpc::ClientContext slow_context;
  auto slow = f.stub().StreamGenerate(&slow_context, Request("abc", 4000));
  EXPECT_TRUE(Stream(f.stub(), Request("abc", 3)).status.ok());
  EXPECT_TRUE(f.engine().WaitIdle()) << "16 MB of output nobody reads must not stay";
  EXPECT_EQ(f.Metric("tessera_slow_reader_evictions_total"), 1);
  EXPECT_EQ(f.Metric("tessera_stream_buffer_bytes"), 0);
  v1::GenerateResponse response;
  while (slow->Read(&response)) {
  }
  EXPECT_EQ(slow->Finish().error_code(), grpc::StatusCode::ABORTED);
}

TEST(ServiceTest, ConcurrentCallsAreCapped) {
  Fixture f({}, {.max_concurrent_requests = 2});
  grpc::ClientContext contexts[2];
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (auto& context : contexts) {
    readers.push_back(f.stub().StreamGenerate(&context, Request("abc", 4000)));
    v1::GenerateResponse response;
    ASSERT_TRUE(readers.back()->Read(&response));
  }
  grpc::ClientContext third;
  v1::GenerateResponse response;
  const grpc::Status status = f.stub().Generate(&third, Request("abc", 1), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(third.GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1U);
  for (auto& context : contexts) context.TryCancel();
  for (auto& reader : readers) reader->Finish();
}

TEST(ServiceTest, AbortEndsACallOfAnotherClient) {
  Fixture f;
  grpc::ClientContext context;
  v1::GenerateRequest request = Request("abc", 4000);
  request.set_request_id("victim");
  auto reader = f.stub().StreamGenerate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(Stream(f.stub(), request).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);

  v1::AbortRequest abort;
  abort.set_request_id("victim");
  v1::AbortResponse answer;
  grpc::ClientContext abort_context;
  ASSERT_TRUE(f.stub().Abort(&abort_context, abort, &answer).ok());
  EXPECT_TRUE(answer.found());
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::ABORTED);
  grpc::ClientContext again;
  ASSERT_TRUE(f.stub().Abort(&again, abort, &answer).ok());
  EXPECT_FALSE(answer.found());
}

TEST(ServiceTest, ABusyPortIsAClearError) {
  Fixture f;
  const auto second = GrpcServer::Start(&f.context(), {.port = f.server().port()});
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--port"));
}

TEST(ServiceTest, CountersEqualWhatClientsDid) {
  Fixture f;
  for (int i = 0; i < 7; ++i) EXPECT_TRUE(Stream(f.stub(), Request("abc", 10)).status.ok());
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    v1::GenerateResponse response;
    EXPECT_TRUE(f.stub().Generate(&context, Request("abcd", 10), &response).ok());
  }
  EXPECT_EQ(f.Calls("StreamGenerate", "OK"), 7);
  EXPECT_EQ(f.Calls("Generate", "OK"), 3);
  EXPECT_EQ(f.Metric("tessera_request_success_total{finished_reason=\"length\"}"), 10);
  EXPECT_EQ(f.Metric("tessera_time_to_first_token_seconds_count"), 10);
  EXPECT_EQ(f.Metric("tessera_inter_token_latency_seconds_count"), 90);
  EXPECT_EQ(f.Metric("tessera_e2e_request_latency_seconds_count"), 10);
  EXPECT_EQ(f.Metric("tessera_generation_tokens_total"), 100);
  EXPECT_EQ(f.Metric("tessera_prompt_tokens_total"), 33);
}

TEST(ServiceTest, SmallCallsAnswer) {
  Fixture f;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hi");
  v1::TokenizeResponse ids;
  grpc::ClientContext c1;
  ASSERT_TRUE(f.stub().Tokenize(&c1, tokenize, &ids).ok());
  EXPECT_EQ(ids.token_ids_size(), 2);
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids('h');
  v1::DetokenizeResponse text;
  grpc::ClientContext c2;
  ASSERT_TRUE(f.stub().Detokenize(&c2, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "h");
  v1::GetModelInfoResponse model;
  grpc::ClientContext c3;
  ASSERT_TRUE(f.stub().GetModelInfo(&c3, {}, &model).ok());
  EXPECT_EQ(model.name(), "fake");
  EXPECT_TRUE(model.supports_reasoning());
  v1::GetServerInfoResponse server;
  grpc::ClientContext c4;
  ASSERT_TRUE(f.stub().GetServerInfo(&c4, {}, &server).ok());
  EXPECT_TRUE(server.ready());
  EXPECT_EQ(server.grpc_version(), grpc::Version());
  v1::GetLoadResponse load;
  grpc::ClientContext c5;
  ASSERT_TRUE(f.stub().GetLoad(&c5, {}, &load).ok());
  EXPECT_EQ(load.kv_blocks_total(), 100);
  EXPECT_EQ(f.Calls("GetLoad", "OK"), 1);
}

// grpc.health.v1 has one enum field: 1 = SERVING, 2 = NOT_SERVING; absent: unknown.
grpc::Status CheckHealth(Fixture& f, const std::string& service, std::string* answer) {
  grpc::GenericStub stub(f.channel());
  grpc::ClientContext context;
  const grpc::Slice slice(
      service.empty() ? "" : absl::StrCat("\x0a", std::string(1, service.size()), service));
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::CompletionQueue queue;
  grpc::Status status;
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  EXPECT_TRUE(queue.Next(&tag, &ok));
  grpc::Slice bytes;
  if (status.ok() && response.DumpToSingleSlice(&bytes).ok()) {
    answer->assign(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  }
  return status;
}

TEST(ServiceTest, HealthFollowsTheServer) {
  Fixture f;
  for (const char* service : {"", "tessera.v1.Inference"}) {
    std::string answer;
    ASSERT_TRUE(CheckHealth(f, service, &answer).ok()) << service;
    EXPECT_EQ(answer, "\x08\x01");
    f.server().SetServing(false);
    ASSERT_TRUE(CheckHealth(f, service, &answer).ok()) << service;
    EXPECT_EQ(answer, "\x08\x02");
    f.server().SetServing(true);
  }
  std::string answer;
  EXPECT_EQ(CheckHealth(f, "nobody", &answer).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace tessera
