#include "server/grpc/generation_reactors.h"

#include <memory>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/monotonic_time.h"
#include "server/generation_call.h"
#include "server/grpc/message_buffer.h"
#include "server/grpc/status_mapping.h"

namespace tessera {
namespace {

std::string_view TraceparentOf(const grpc::CallbackServerContext& call) {
  const auto found = call.client_metadata().find("traceparent");
  if (found == call.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

// By MonotonicNow(). gRPC keeps a distance and shows it as a wall time that it works out when
// asked.
absl::Time DeadlineOf(const grpc::CallbackServerContext& call) {
  constexpr absl::Duration kForEver = absl::Hours(24 * 365);  // gRPC's "none" is centuries away
  const absl::Duration left = absl::FromChrono(call.deadline()) - absl::Now();
  return left > kForEver ? absl::InfiniteFuture() : MonotonicNow() + left;
}

absl::StatusOr<v1::GenerateRequest> TakeMessage(grpc::ByteBuffer* buffer,
                                                const ServiceLimits& limits) {
  grpc::ByteBuffer taken;
  taken.Swap(buffer);
  return ParseBuffer<v1::GenerateRequest>(taken, limits.max_message_bytes);
}

// Finishes once, when the engine is done or the client has gone, whichever comes first.
class UnaryCall final : public grpc::ServerUnaryReactor, public GenerationCall {
 public:
  UnaryCall(InferenceContext* context, grpc::CallbackServerContext* call,
            grpc::ByteBuffer* response)
      : GenerationCall(context, "Generate"), call_(call), response_(response) {}

  void Start(const grpc::ByteBuffer& request, std::shared_ptr<UnaryCall> self) {
    self_ = self;
    request_ = request;
    SetTraceparent(TraceparentOf(*call_));
    Submit(request.Length(), DeadlineOf(*call_), std::move(self));
  }

  using GenerationCall::OnDone;
  void OnCancel() override { CancelledByClient(); }
  void OnDone() override { const std::shared_ptr<UnaryCall> last = std::move(self_); }

 private:
  void Advance() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    if (client_gone_) EndEarly(ClientGoneStatus());
    if (!end_.has_value()) return;
    if (end_->ok()) *response_ = ToBuffer(output_.Take());
    finished_ = true;
    RecordEnd(*end_);
    Finish(ToGrpcStatus(*end_, call_));
  }

  absl::StatusOr<v1::GenerateRequest> TakeRequest() override {
    return TakeMessage(&request_, context_.limits);
  }

  grpc::CallbackServerContext* const call_;
  grpc::ByteBuffer* const response_;
  grpc::ByteBuffer request_;         // of whoever reads the request
  std::shared_ptr<UnaryCall> self_;  // held until gRPC is done
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

// At most one write is in flight; what comes meanwhile is joined into the next message. A client
// that lets too much pile up is evicted.
class StreamCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public GenerationCall {
 public:
  StreamCall(InferenceContext* context, grpc::CallbackServerContext* call)
      : GenerationCall(context, "StreamGenerate"), call_(call) {}

  void Start(const grpc::ByteBuffer& request, std::shared_ptr<StreamCall> self) {
    self_ = self;
    request_ = request;
    SetTraceparent(TraceparentOf(*call_));
    Submit(request.Length(), DeadlineOf(*call_), std::move(self));
  }

  using GenerationCall::OnDone;
  void OnCancel() override { CancelledByClient(); }
  void OnDone() override { const std::shared_ptr<StreamCall> last = std::move(self_); }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    write_in_flight_ = false;
    if (!ok) client_gone_ = true;
    Proceed();
  }

 private:
  void Advance() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    ReportBuffer();
    if (client_gone_) {
      // While a write is in flight its completion comes here again and finishes.
      if (!write_in_flight_) End(ClientGoneStatus());
      return;
    }
    if (output_.bytes() > context_.limits.max_stream_buffer_bytes && write_in_flight_) {
      context_.metrics->CountSlowReaderEviction();
      // An error overtakes the write that waits for the client.
      End(absl::AbortedError(absl::StrCat("the client does not read: ", output_.bytes(),
                                          " bytes of output are waiting")));
      return;
    }
    if (write_in_flight_) return;
    if (!output_.empty() && end_.has_value() && end_->ok()) {
      WriteLast();
    } else if (!output_.empty() && (num_unfinished_ > 0 || end_.has_value())) {
      message_ = ToBuffer(output_.Take());
      write_in_flight_ = true;
      ReportBuffer();
      StartWrite(&message_);
    } else if (end_.has_value()) {
      End(*end_);
    }
  }

  // The last message and the status travel together.
  void WriteLast() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    message_ = ToBuffer(output_.Take());
    finished_ = true;
    ReportBuffer();
    RecordEnd(*end_);
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  }

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    EndEarly(status);
    finished_ = true;
    output_ = {};
    ReportBuffer();
    RecordEnd(status);
    Finish(ToGrpcStatus(status, call_));
  }

  void ReportBuffer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t bytes = output_.bytes();
    if (bytes != reported_bytes_) context_.metrics->AddStreamBufferBytes(bytes - reported_bytes_);
    reported_bytes_ = bytes;
  }

  absl::StatusOr<v1::GenerateRequest> TakeRequest() override {
    return TakeMessage(&request_, context_.limits);
  }

  grpc::CallbackServerContext* const call_;
  grpc::ByteBuffer request_;          // of whoever reads the request
  std::shared_ptr<StreamCall> self_;  // held until gRPC is done
  grpc::ByteBuffer message_ ABSL_GUARDED_BY(mutex_);
  int64_t reported_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryGeneration(InferenceContext* context,
                                               grpc::CallbackServerContext* call,
                                               const grpc::ByteBuffer& request,
                                               grpc::ByteBuffer* response) {
  auto reactor = std::make_shared<UnaryCall>(context, call, response);
  UnaryCall* const raw = reactor.get();
  raw->Start(request, std::move(reactor));
  return raw;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStreamGeneration(InferenceContext* context,
                                                                  grpc::CallbackServerContext* call,
                                                                  const grpc::ByteBuffer& request) {
  auto reactor = std::make_shared<StreamCall>(context, call);
  StreamCall* const raw = reactor.get();
  raw->Start(request, std::move(reactor));
  return raw;
}

}  // namespace tessera
