#include "tests/bench/overhead.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "server/commands/workload.h"
#include "server/grpc/client_channel.h"
#include "server/grpc/remote_generator.h"
#include "tests/bench/http2_client.h"
#include "tests/bench/server_process.h"

namespace tessera {
namespace {

struct OneRequest {
  absl::Duration latency;
  absl::Duration execution;
};

absl::StatusOr<OneRequest> Ask(TextGenerator* generator, const v1::GenerateRequest& request,
                               const ServerProcess& server) {
  const absl::Duration before = server.execution();
  const absl::Time begun = absl::Now();
  RETURN_IF_ERROR(generator->Stream(
      request, [](const v1::GenerateResponse&) {}, nullptr));
  const absl::Duration latency = absl::Now() - begun;
  return OneRequest{.latency = latency, .execution = server.execution() - before};
}

constexpr int32_t kWarmUps = 20;
constexpr char kPath[] = "/tessera.v1.Inference/StreamGenerate";

absl::StatusOr<OneRequest> AskAtSocket(Http2Client* client, const v1::GenerateRequest& request,
                                       const ServerProcess& server) {
  const absl::Duration before = server.execution();
  ASSIGN_OR_RETURN(const Http2Answer answer, client->Call(kPath, request.SerializeAsString()));
  v1::GenerateResponse last;
  if (!last.ParseFromString(answer.messages.back()) || last.choices_size() != 1 ||
      !last.choices(0).has_finish()) {
    return absl::InternalError("the server's stream does not end with the end of a generation");
  }
  return OneRequest{.latency = answer.time, .execution = server.execution() - before};
}

absl::Status AskAllAtSocket(const OverheadOptions& options, const ServerProcess& server,
                            OverheadResult* result) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Http2Client> client, Http2Client::Connect(server.port()));
  const PlannedRequest single{.input_len = options.input_len, .output_len = 1};
  const RequestStyle style{.vocab_size = server.vocab_size()};
  for (int32_t i = 0; i < options.num_requests + kWarmUps; ++i) {
    absl::SleepFor(options.pause);
    ASSIGN_OR_RETURN(const OneRequest one,
                     AskAtSocket(client.get(), MadeRequest(single, style, i), server));
    if (i < kWarmUps) continue;
    result->at_socket.push_back(absl::ToDoubleSeconds(one.latency - one.execution));
    result->steps.push_back(absl::ToDoubleSeconds(one.execution));
  }
  return absl::OkStatus();
}

// Seconds of one empty call (grpc.health.v1 Check), over a channel like a generator's: what
// transport and kernel take of every request.
absl::StatusOr<double> AskNothing(grpc::GenericStub* stub) {
  const absl::Time begun = absl::Now();
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  // A HealthCheckRequest without fields: no bytes, and a question about the whole server.
  const grpc::Slice nothing;
  const auto call = stub->PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check",
                                           grpc::ByteBuffer(&nothing, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, &answer);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return absl::UnavailableError(status.error_message());
  return absl::ToDoubleSeconds(absl::Now() - begun);
}

absl::Status AskAll(const OverheadOptions& options, TextGenerator* generator,
                    const ServerProcess& server, OverheadResult* result) {
  const PlannedRequest single{.input_len = options.input_len, .output_len = 1};
  const RequestStyle style{.vocab_size = server.vocab_size()};
  const PlannedRequest stream{.input_len = options.input_len, .output_len = options.output_len};
  for (int32_t i = 0; i < options.num_requests + kWarmUps; ++i) {
    absl::SleepFor(options.pause);
    ASSIGN_OR_RETURN(const OneRequest one, Ask(generator, MadeRequest(single, style, i), server));
    if (i < kWarmUps) continue;
    result->at_client.push_back(absl::ToDoubleSeconds(one.latency - one.execution));
  }
  for (int32_t i = 0; i < std::max(1, options.num_requests / 10); ++i) {
    ASSIGN_OR_RETURN(const OneRequest one, Ask(generator, MadeRequest(stream, style, i), server));
    result->per_token.push_back(absl::ToDoubleSeconds(one.latency - one.execution) /
                                options.output_len);
  }
  return absl::OkStatus();
}

absl::Status AskNothingOften(const OverheadOptions& options, TextGenerator* generator,
                             const ServerProcess& server, OverheadResult* result) {
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                   OpenClientChannel({.address = server.address()}));
  grpc::GenericStub stub(std::move(channel));
  for (int32_t i = 0; i < options.num_requests + kWarmUps; ++i) {
    absl::SleepFor(options.pause);
    ASSIGN_OR_RETURN(const double seconds, AskNothing(&stub));
    if (i >= kWarmUps) result->empty_calls.push_back(seconds);
  }
  const PlannedRequest single{.input_len = options.input_len, .output_len = 1};
  const RequestStyle style{.vocab_size = server.vocab_size()};
  for (int32_t i = 0; i < options.num_requests; ++i) {
    RETURN_IF_ERROR(Ask(generator, MadeRequest(single, style, i), server).status());
    ASSIGN_OR_RETURN(const double seconds, AskNothing(&stub));
    result->empty_calls_after_steps.push_back(seconds);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OverheadResult> MeasureOverhead(const OverheadOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<ServerProcess> server,
                   ServerProcess::Start(options.runtime));
  ASSIGN_OR_RETURN(const std::unique_ptr<TextGenerator> generator,
                   MakeRemoteGenerator({.server = {.address = server->address()}}));
  OverheadResult result;
  RETURN_IF_ERROR(AskNothingOften(options, generator.get(), *server, &result));
  RETURN_IF_ERROR(AskAllAtSocket(options, *server, &result));
  RETURN_IF_ERROR(AskAll(options, generator.get(), *server, &result));
  return result;
}

}  // namespace tessera
