#include "server/http/openai/api_generation.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/status_macros.h"
#include "server/http/http_error.h"
#include "server/http/openai/answer_format.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/api_kind.h"
#include "server/http/openai/prompt_call.h"

namespace tessera {
namespace {

// Proxies end connections that are silent for longer.
constexpr absl::Duration kKeepAlive = absl::Seconds(15);

class ApiGeneration final : public std::enable_shared_from_this<ApiGeneration> {
 public:
  ApiGeneration(InferenceContext* context, std::shared_ptr<HttpExchange> exchange, ApiKind kind,
                Caller caller)
      : context_(*context),
        exchange_(std::move(exchange)),
        kind_(kind),
        caller_(std::move(caller)) {
    request_.kind = kind;
    context_.gate.CallOpened();
  }
  ~ApiGeneration() { context_.gate.CallClosed(); }

  void Start() {
    exchange_->OnGone([self = shared_from_this()] { self->ClientGone(); });
    std::optional<CallGate::Submission> submission = context_.gate.BeginSubmission();
    if (!submission) {
      return Refuse(absl::UnavailableError("the server is shutting down; try another one"));
    }
    std::string body = exchange_->TakeBody();
    if (body.size() <= CallWorkers::kSmallCallBytes) return Begin(body);
    const auto ticket =
        context_.workers.Add([self = shared_from_this(), held = *std::move(submission),
                              text = std::move(body)] { self->Begin(text); });
    if (!ticket.ok()) Refuse(ticket.status());
  }

 private:
  const char* method() const { return FactsOf(kind_).method; }

  // Reads the body and hands the prompts to the engine; on the listener's thread or a worker.
  void Begin(const std::string& body) {
    const absl::Status status = Guarded([&] { return TryBegin(body); });
    if (status.ok()) return;
    exchange_->Post([self = shared_from_this(), status] { self->Refuse(status); });
  }

  absl::Status TryBegin(const std::string& body) {
    if (context_.gate.HasGivenUp()) return absl::UnavailableError("the server is shutting down");
    absl::StatusOr<ApiRequest> read = FactsOf(kind_).read(body);
    RETURN_IF_ERROR(read.status());
    std::vector<std::shared_ptr<PromptCall>> calls;
    {
      absl::MutexLock lock(&mutex_);
      if (is_gone_) return absl::OkStatus();
      request_ = *std::move(read);
      for (size_t i = 0; i < request_.prompts.size(); ++i) calls_.push_back(NewCall(i));
      outputs_.resize(calls_.size());
      ends_.resize(calls_.size());
      calls = calls_;
    }
    for (const auto& call : calls) {
      call->Start(call, exchange_->request().Header("traceparent"));
    }
    return absl::OkStatus();
  }

  std::shared_ptr<PromptCall> NewCall(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::make_shared<PromptCall>(
        &context_, request_.prompts[index],
        PromptCall::Options{.method = method(),
                            .caller = caller_,
                            .stream = request_.stream,
                            .on_news = [self = shared_from_this(), index] {
                              self->exchange_->Post([self, index] { self->OnNews(index); });
                            }});
  }

  void ClientGone() {
    {
      absl::MutexLock lock(&mutex_);
      is_gone_ = true;
    }
    CancelCalls();
  }

  // They know this, and this knows them: one of both must forget.
  void CancelCalls() {
    std::vector<std::shared_ptr<PromptCall>> calls;
    {
      absl::MutexLock lock(&mutex_);
      calls.swap(calls_);
    }
    for (const auto& call : calls) call->Cancel();
  }

  // From here on: the listener's thread. The request was read before the first news.
  void OnNews(size_t index) {
    if (is_over_ || calls_empty()) return;
    if (is_writing_) {
      has_news_ = true;
      const auto call = CallAt(index);
      if (call != nullptr && request_.stream && call->HasTooMuch()) Evict();
      return;
    }
    has_news_ = false;
    std::string events;
    for (size_t i = 0; i < outputs_.size() && !is_over_; ++i) TakeFrom(i, &events);
    if (is_over_) return;
    const bool is_end = num_ended_ == outputs_.size();
    if (request_.stream) return SendEvents(std::move(events), is_end);
    if (is_end) SendWhole();
  }

  void TakeFrom(size_t index, std::string* events) {
    const auto call = CallAt(index);
    if (call == nullptr || ends_[index]) return;
    PromptCall::News news = call->Take();
    if (news.output) {
      PromptOutput& output = outputs_[index];
      output.response = *std::move(news.output);
      if (output.prompt_ids.empty() && NeedsPromptIds()) output.prompt_ids = call->prompt_ids();
      if (request_.stream) Format().AppendEvents(index, output, events);
    }
    if (!news.end) return;
    if (!news.end->ok()) return Fail(*news.end, *events);
    ends_[index] = true;
    ++num_ended_;
  }

  bool NeedsPromptIds() const { return request_.echo || request_.return_token_ids; }

  AnswerFormat& Format() {
    if (format_ != nullptr) return *format_;
    const std::string& name = outputs_.front().response.request_id();
    facts_ = {.request = &request_,
              .encoder = context_.model->encoder.get(),
              .id = FactsOf(kind_).id_prefix + (name.empty() ? exchange_->request().id : name),
              .model = context_.model->name,
              .created = absl::ToUnixSeconds(arrival_)};
    format_ = FactsOf(kind_).new_format(&facts_);
    return *format_;
  }

  void SendWhole() {
    is_over_ = true;
    exchange_->Respond({.content_type = "application/json", .body = Format().Whole(outputs_)},
                       [self = shared_from_this()] { self->CancelCalls(); });
  }

  void SendEvents(std::string events, bool is_end) {
    if (is_end) {
      std::vector<v1::Usage> usages;
      for (const PromptOutput& output : outputs_) usages.push_back(output.response.usage());
      Format().AppendEnd(TotalUsage(usages), &events);
    }
    if (!events.empty()) Send(std::move(events), is_end);
  }

  // Begins the stream where it has not begun: an error before the first token is a plain one.
  void Send(std::string events, bool is_last) {
    is_over_ = is_last;
    is_writing_ = true;
    auto done = [self = shared_from_this(), is_last] {
      self->is_writing_ = false;
      if (is_last) return self->CancelCalls();
      if (self->has_news_) self->OnNews(0);
    };
    if (!has_begun_) {
      has_begun_ = true;
      exchange_->SetIdlePiece(": keep-alive\n\n", kKeepAlive);
      HttpResponse head{.content_type = "text/event-stream; charset=utf-8",
                        .body = std::move(events),
                        .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}};
      return exchange_->BeginStream(std::move(head), is_last, std::move(done));
    }
    if (is_last) return exchange_->WriteLast(std::move(events), std::move(done));
    exchange_->Write(std::move(events), std::move(done));
  }

  void Fail(const absl::Status& status, const std::string& events) {
    const HttpError error = ApiErrorOf(status, request_);
    if (!has_begun_) return Refuse(status);
    std::string last = events;
    Format().AppendFailure(error, &last);
    Send(std::move(last), /*is_last=*/true);
  }

  void Refuse(const absl::Status& status) {
    is_over_ = true;
    {
      absl::MutexLock lock(&mutex_);
      if (calls_.empty()) {  // calls count themselves
        context_.metrics->CountRejected(status.code());
        context_.metrics->CountCall(method(), status.code());
      }
    }
    exchange_->Respond(ApiErrorResponse(exchange_->request().path, ApiErrorOf(status, request_)));
    CancelCalls();
  }

  void Evict() {
    is_over_ = true;
    std::vector<std::shared_ptr<PromptCall>> calls;
    {
      absl::MutexLock lock(&mutex_);
      calls.swap(calls_);
    }
    for (const auto& call : calls) call->Evict();
    exchange_->Abort();
  }

  bool calls_empty() {
    absl::MutexLock lock(&mutex_);
    return calls_.empty();
  }
  std::shared_ptr<PromptCall> CallAt(size_t index) {
    absl::MutexLock lock(&mutex_);
    return index < calls_.size() ? calls_[index] : nullptr;
  }

  InferenceContext& context_;
  const std::shared_ptr<HttpExchange> exchange_;
  const ApiKind kind_;
  const Caller caller_;
  const absl::Time arrival_ = absl::Now();

  absl::Mutex mutex_;
  bool is_gone_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<PromptCall>> calls_ ABSL_GUARDED_BY(mutex_);

  // Written once by whoever reads the body, then the listener's.
  ApiRequest request_;
  std::vector<PromptOutput> outputs_;  // the latest of each prompt
  std::vector<bool> ends_;
  size_t num_ended_ = 0;

  AnswerFacts facts_;
  std::unique_ptr<AnswerFormat> format_;
  bool has_begun_ = false;
  bool is_writing_ = false;
  bool has_news_ = false;
  bool is_over_ = false;  // the last piece is under way
};

}  // namespace

void StartApiGeneration(InferenceContext* context, std::shared_ptr<HttpExchange> exchange,
                        ApiKind kind, Caller caller) {
  std::make_shared<ApiGeneration>(context, std::move(exchange), kind, std::move(caller))->Start();
}

}  // namespace tessera
