#include "server/generation_call.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "server/field_violations.h"
#include "server/logging.h"
#include "server/retry_delay.h"

namespace tessera {
namespace {

// Before the message is read its priority is not known.
constexpr int32_t kMostImportant = std::numeric_limits<int32_t>::min();

absl::Status ShuttingDown() {
  return absl::UnavailableError("the server is shutting down; try another one");
}

// Ends that somebody outside the engine asked for.
bool IsCancellation(const absl::Status& status) {
  return absl::IsCancelled(status) || absl::IsDeadlineExceeded(status) || absl::IsAborted(status);
}

}  // namespace

bool GenerationCall::Arrive(const Arrival& arrival) {
  const absl::Status status = TryArrive(arrival);
  if (!status.ok()) Refuse(status);
  return status.ok();
}

absl::Status GenerationCall::TryArrive(const Arrival& arrival) {
  deadline_ = arrival.deadline;
  RETURN_IF_ERROR(arrival.caller.status());
  if (context_.gate.closed()) return ShuttingDown();
  RETURN_IF_ERROR(EnterTenant(arrival.caller->tenant));
  RETURN_IF_ERROR(context_.active.Enter(claim_));
  absl::MutexLock lock(&mutex_);
  counts_ = true;
  return absl::OkStatus();
}

void GenerationCall::Submit(size_t message_bytes, std::shared_ptr<ResponseSink> self) {
  std::optional<CallGate::Submission> submission = context_.gate.BeginSubmission();
  if (!submission.has_value()) return Refuse(ShuttingDown());
  if (message_bytes <= CallWorkers::kSmallCallBytes) {
    return SubmitNow(self, *std::move(submission), /*on_worker=*/false);
  }
  // Large messages do not take the workers' places only to be refused.
  if (const absl::Status room = context_.Admit(deadline_, kMostImportant, claim_); !room.ok())
    return Refuse(room);
  const absl::StatusOr<CallWorkers::Ticket> ticket =
      context_.workers.Add([this, self = std::move(self), held = *std::move(submission)]() mutable {
        SubmitNow(self, std::move(held), /*on_worker=*/true);
      });
  if (!ticket.ok()) return Refuse(ticket.status());
  NoteTicket(&context_.workers, *ticket);
}

void GenerationCall::NoteTicket(CallWorkers* workers, CallWorkers::Ticket ticket) {
  absl::MutexLock lock(&mutex_);
  workers_ = workers;
  ticket_ = ticket;
}

void GenerationCall::SubmitNow(const std::shared_ptr<ResponseSink>& self,
                               CallGate::Submission submission, bool on_worker) {
  const absl::Status status = Guarded([&] { return TrySubmit(self, &submission, on_worker); });
  if (!status.ok()) Refuse(status);  // within the submission: a drain waits for it
}

absl::Status GenerationCall::Compile(const std::shared_ptr<ResponseSink>& self,
                                     v1::GenerateRequest request, CallGate::Submission submission) {
  ASSIGN_OR_RETURN(const CallWorkers::Ticket ticket,
                   context_.compilers.Add([this, self, request = std::move(request),
                                           held = std::move(submission)] {
                     const absl::Status status = Guarded([&] { return TrySubmit(self, request); });
                     if (!status.ok()) Refuse(status);
                   }));
  NoteTicket(&context_.compilers, ticket);
  return absl::OkStatus();
}

absl::Status GenerationCall::StillWanted() {
  if (context_.gate.HasGivenUp()) return absl::UnavailableError("the server is shutting down");
  if (MonotonicNow() >= deadline_) return absl::DeadlineExceededError("the call's deadline passed");
  absl::MutexLock lock(&mutex_);
  return client_gone_ ? ClientGoneStatus() : absl::OkStatus();
}

absl::Status GenerationCall::TrySubmit(const std::shared_ptr<ResponseSink>& self,
                                       CallGate::Submission* submission, bool on_worker) {
  RETURN_IF_ERROR(StillWanted());
  ASSIGN_OR_RETURN(v1::GenerateRequest request, TakeRequest());
  if (!on_worker && RequestBuilder::MayTakeLong(request)) {
    return Compile(self, std::move(request), std::move(*submission));
  }
  return TrySubmit(self, request);
}

absl::Status GenerationCall::TrySubmit(const std::shared_ptr<ResponseSink>& self,
                                       const v1::GenerateRequest& request) {
  RETURN_IF_ERROR(StillWanted());
  // A request that is wrong is told so, also when there is no room for it.
  ASSIGN_OR_RETURN(GenerateRequest built,
                   context_.builder.Build(request, [this](const GenerateRequest& fields) {
                     return context_.Admit(deadline_, PriorityOf(fields), claim_);
                   }));
  ASSIGN_OR_RETURN(const std::string name, context_.active.Name(built.external_id));
  built.external_id = name;
  built.arrival = begun_;
  built.deadline = deadline_;
  built.priority = PriorityOf(built);
  if (tenant_ != nullptr) {
    built.tenant = claim_;
    // No salt of a client has a slash.
    built.cache_salt = absl::StrCat(tenant_->name(), "/", built.cache_salt);
    tenant_->UsePromptTokens(static_cast<int64_t>(built.prompt_ids.size()));
  }
  {
    absl::MutexLock lock(&mutex_);
    name_ = name;
    if (client_gone_) return ClientGoneStatus();
    OnBuilt(built);
    output_.Begin(name, request);
    prompt_tokens_ = static_cast<int32_t>(built.prompt_ids.size());
    last_token_.resize(static_cast<size_t>(built.n), absl::InfinitePast());
    num_unfinished_ = built.n;
  }
  absl::StatusOr<RequestId> id = context_.engine->Submit(std::move(built), self);
  absl::MutexLock lock(&mutex_);
  if (!id.ok()) return id.status();
  id_ = *id;
  if (!context_.active.Submitted(name, *id)) {
    context_.engine->Cancel(*id, absl::AbortedError("aborted by request"));
  }
  if (client_gone_) context_.engine->Cancel(*id);
  return absl::OkStatus();
}

absl::Status GenerationCall::EnterTenant(const std::shared_ptr<Tenant>& tenant) {
  if (tenant == nullptr) return absl::OkStatus();
  if (const auto refusal = tenant->Enter(context_.clock.Now())) {
    return WithRetryDelay(absl::ResourceExhaustedError(refusal->message), refusal->delay);
  }
  tenant_ = tenant;
  claim_ = tenant->claim();
  absl::MutexLock lock(&mutex_);
  is_in_tenant_ = true;
  return absl::OkStatus();
}

// A tenant's requests step back behind its class, never before it.
int32_t GenerationCall::PriorityOf(const GenerateRequest& request) const {
  if (tenant_ == nullptr) return request.priority;
  return tenant_->priority() + std::max(0, request.priority);
}

void GenerationCall::Refuse(const absl::Status& status) {
  ReleaseName();
  absl::MutexLock lock(&mutex_);
  if (end_.has_value()) return LeaveActive();  // the client has gone meanwhile
  refused_ = !IsCancellation(status);
  if (refused_) {
    const bool is_bad = status.GetPayload(kBadRequestTypeUrl).has_value();
    context_.metrics->CountRejected(is_bad ? absl::StatusCode::kInvalidArgument : status.code());
  }
  EndEarly(status);
  Proceed();
}

void GenerationCall::ReleaseName() {
  absl::MutexLock lock(&mutex_);
  if (!name_.empty()) context_.active.Release(name_);
}

void GenerationCall::Proceed() {
  try {
    return Advance();
  } catch (...) {
    end_.reset();
    EndEarly(StatusOfException());
  }
  // What could not be made into a message is given up; an error needs none.
  output_ = {};
  Advance();
}

void GenerationCall::OnTokens(TokenDelta delta) {
  absl::MutexLock lock(&mutex_);
  if (end_.has_value()) return;
  Measure(delta);
  if (delta.finish) --num_unfinished_;
  output_.Add(std::move(delta));
  Proceed();
}

void GenerationCall::OnDone(const absl::Status& status, const FinishInfo& info) {
  ReleaseName();
  if (status.ok()) {
    context_.metrics->ObserveRequest(info);
    const RequestTiming& timing = info.timing;
    context_.forecast.Finished(context_.clock.Now(), timing.last_token - timing.first_scheduled,
                               context_.engine->stats().num_waiting);
  }
  // It waited, and made room for others.
  if (absl::IsResourceExhausted(status)) context_.metrics->CountRejected(status.code());
  absl::MutexLock lock(&mutex_);
  engine_done_ = true;
  if (end_.has_value()) return;
  // The engine knows no fields; of a request that it has accepted only these can be wrong.
  end_ = absl::IsInvalidArgument(status) ? FieldError("constraints", std::string(status.message()))
                                         : status;
  Proceed();
}

void GenerationCall::CancelledByClient() {
  absl::MutexLock lock(&mutex_);
  client_gone_ = true;
  if (ticket_) workers_->Remove(*ticket_);
  if (id_ && !engine_done_) context_.engine->Cancel(*id_);
  Proceed();
}

void GenerationCall::EndEarly(const absl::Status& status) {
  if (end_.has_value()) return;
  end_ = status;
  if (id_ && !engine_done_) context_.engine->Cancel(*id_, status);
}

absl::Status GenerationCall::ClientGoneStatus() const {
  if (MonotonicNow() >= deadline_) return absl::DeadlineExceededError("the call's deadline passed");
  return absl::CancelledError("the client cancelled the call");
}

void GenerationCall::LeaveActive() {
  if (std::exchange(is_in_tenant_, false)) tenant_->Leave();
  if (std::exchange(counts_, false)) context_.active.Leave(claim_);
}

void GenerationCall::CountLingering() {
  // What was refused holds next to nothing, and who has gone will read no more.
  if (name_.empty() || client_gone_) return;
  if (!std::exchange(counts_, true)) context_.active.Linger(claim_);
}

void GenerationCall::RecordEnd(const absl::Status& status) {
  LeaveActive();
  if (!refused_ && IsCancellation(status)) context_.metrics->CountCancelled(has_output_);
  context_.metrics->CountCall(method_, status.code());
  if (!LogsDebug()) return;
  LogDebug(absl::StrCat(std::string(method_), " ", name_, " ",
                        std::string(StatusCodeName(status.code())), ", ", prompt_tokens_,
                        " prompt tokens, ", absl::FormatDuration(context_.clock.Now() - begun_),
                        trace_id_.empty() ? "" : ", trace ", trace_id_));
}

void GenerationCall::Measure(const TokenDelta& delta) {
  if (delta.finish) context_.metrics->CountFinish(delta.finish->reason);
  if (delta.token_ids.empty()) return;
  if (tenant_ != nullptr) {
    tenant_->UseGeneratedTokens(static_cast<int64_t>(delta.token_ids.size()));
  }
  const absl::Time now = context_.clock.Now();
  if (!has_output_) context_.metrics->ObserveFirstToken(now - begun_);
  has_output_ = true;
  absl::Time& last = last_token_[static_cast<size_t>(delta.choice)];
  if (last != absl::InfinitePast()) {
    const auto count = static_cast<int64_t>(delta.token_ids.size());
    for (int64_t i = 0; i < count; ++i) context_.metrics->ObserveInterToken((now - last) / count);
  }
  last = now;
}

}  // namespace tessera
