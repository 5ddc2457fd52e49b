#include "server/grpc/generation_reactors.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/monotonic_time.h"
#include "server/generation_call.h"
#include "server/grpc/call_metadata.h"
#include "server/grpc/message_buffer.h"
#include "server/grpc/received_call.h"
#include "server/grpc/status_mapping.h"
#include "server/stall_watch.h"

namespace tessera {
namespace {

// Clients that read have read the end of their call by then.
constexpr absl::Duration kPromptReading = absl::Milliseconds(200);

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

// What both kinds of calls have in common, from the headers to the engine.
class GenerationReactor : public ReceivedCall,
                          public GenerationCall,
                          public StallingCall,
                          public std::enable_shared_from_this<GenerationReactor> {
 public:
  void Start(MessageIntake* intake) {
    Hold(shared_from_this());
    SetTraceparent(MetadataOf(*call_, "traceparent"));
    context_.stalls.Add(weak_from_this());
    if (!Arrive({.deadline = DeadlineOf(*call_),
                 .caller = context_.Authorize(CredentialsOf(*call_), Permission::kGenerate)})) {
      return;
    }
    Receive(intake);
  }

  using GenerationCall::OnDone;
  using ReceivedCall::OnDone;

 protected:
  GenerationReactor(InferenceContext* context, grpc::CallbackServerContext* call,
                    std::string_view method)
      : GenerationCall(context, method), call_(call) {}

  grpc::CallbackServerContext* const call_;  // until OnEnded()
  // For the client to read; the infinite future: for nobody.
  absl::Time waits_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();

 private:
  void OnMessage(const grpc::ByteBuffer& message) override {
    request_ = message;
    Submit(message.Length(), shared_from_this());
  }
  void OnNoMessage(const absl::Status& why) override { Refuse(why); }
  void OnClientGone(bool /*before_message*/) override { CancelledByClient(); }
  void OnEnded() override {
    absl::MutexLock lock(&mutex_);
    waits_since_ = absl::InfiniteFuture();
  }
  absl::StatusOr<v1::GenerateRequest> TakeRequest() override {
    return TakeMessage(&request_, context_.limits);
  }

  grpc::ByteBuffer request_;  // of whoever reads the request
};

grpc::ServerGenericBidiReactor* Started(const std::shared_ptr<GenerationReactor>& call,
                                        MessageIntake* intake) {
  call->Start(intake);
  return call.get();
}

// Finishes once, when the engine is done or the client has gone, whichever comes first.
class UnaryCall final : public GenerationReactor {
 public:
  UnaryCall(InferenceContext* context, grpc::CallbackServerContext* call)
      : GenerationReactor(context, call, "Generate") {}

  // The answer is in gRPC's hands; without a reader it stays there.
  void LookForStall(absl::Time now, absl::Duration limit) override {
    absl::MutexLock lock(&mutex_);
    if (now - waits_since_ >= kPromptReading) CountLingering();
    if (now - waits_since_ < limit) return;
    waits_since_ = absl::InfiniteFuture();
    context_.metrics->CountSlowReaderEviction();
    call_->TryCancel();
  }

 private:
  void Advance() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_) return;
    if (client_gone_) EndEarly(ClientGoneStatus());
    if (!end_.has_value()) return;
    if (end_->ok()) response_ = ToBuffer(output_.Take());
    finished_ = true;
    waits_since_ = context_.clock.Now();
    RecordEnd(*end_);
    if (end_->ok()) return StartWriteAndFinish(&response_, grpc::WriteOptions(), grpc::Status::OK);
    Finish(ToGrpcStatus(*end_, call_));
  }

  grpc::ByteBuffer response_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

// At most one write is in flight; what comes meanwhile is joined into the next message. A client
// that lets too much pile up, or reads nothing for too long, is evicted.
class StreamCall final : public GenerationReactor {
 public:
  StreamCall(InferenceContext* context, grpc::CallbackServerContext* call)
      : GenerationReactor(context, call, "StreamGenerate") {}

  void LookForStall(absl::Time now, absl::Duration limit) override {
    absl::MutexLock lock(&mutex_);
    if (finished_ && now - waits_since_ >= kPromptReading) CountLingering();
    if (now - waits_since_ < limit) return;
    if (finished_) {
      // It was told, or its stream has ended, and it has not read that either. gRPC keeps what it
      // would read until the stream is reset.
      waits_since_ = absl::InfiniteFuture();
      call_->TryCancel();
    } else {
      Evict(absl::StrCat("it has read nothing for ", absl::FormatDuration(limit)));
    }
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    write_in_flight_ = false;
    if (!finished_) waits_since_ = absl::InfiniteFuture();
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
    if (write_in_flight_) {
      if (output_.bytes() > PendingLimit()) {
        Evict(absl::StrCat(output_.bytes() + BytesInFlight(), " bytes of output are waiting"));
      }
      return;
    }
    if (!output_.empty() && end_.has_value() && end_->ok()) {
      WriteLast();
    } else if (!output_.empty() && (num_unfinished_ > 0 || end_.has_value())) {
      message_ = ToBuffer(output_.Take());
      write_in_flight_ = true;
      waits_since_ = context_.clock.Now();
      ReportBuffer();
      StartWrite(&message_);
    } else if (end_.has_value()) {
      End(*end_);
    }
  }

  int64_t BytesInFlight() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return write_in_flight_ ? static_cast<int64_t>(message_.Length()) : 0;
  }

  // What may wait behind the write in flight, so that all of it keeps the limit. Behind a message
  // that alone is as large (log probabilities of a long prompt) a client that reads it has time to.
  int64_t PendingLimit() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t limit = context_.limits.max_stream_buffer_bytes;
    return std::max(limit - BytesInFlight(), limit / 4);
  }

  void Evict(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    context_.metrics->CountSlowReaderEviction();
    // An error overtakes the write that waits for the client.
    End(absl::AbortedError(absl::StrCat("the client does not read: ", why)));
  }

  // The last message and the status travel together.
  void WriteLast() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    message_ = ToBuffer(output_.Take());
    finished_ = true;
    waits_since_ = context_.clock.Now();
    ReportBuffer();
    RecordEnd(*end_);
    StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
  }

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    EndEarly(status);
    finished_ = true;
    waits_since_ = context_.clock.Now();
    output_ = {};
    ReportBuffer();
    RecordEnd(status);
    Finish(ToGrpcStatus(status, call_));
  }

  void ReportBuffer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t bytes = output_.bytes() + (finished_ ? 0 : BytesInFlight());
    if (bytes != reported_bytes_) context_.metrics->AddStreamBufferBytes(bytes - reported_bytes_);
    reported_bytes_ = bytes;
  }

  grpc::ByteBuffer message_ ABSL_GUARDED_BY(mutex_);
  int64_t reported_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerGenericBidiReactor* StartUnaryGeneration(const GrpcCall& call) {
  return Started(std::make_shared<UnaryCall>(call.context, call.call), call.intake);
}

grpc::ServerGenericBidiReactor* StartStreamGeneration(const GrpcCall& call) {
  return Started(std::make_shared<StreamCall>(call.context, call.call), call.intake);
}

}  // namespace tessera
