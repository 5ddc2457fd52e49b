#include "server/http/openai/api.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/text/jinja/concat.h"
#include "kernels/core/exception_boundary.h"
#include "server/http/http_error.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/api_generation.h"
#include "server/http/openai/fact_routes.h"
#include "server/http/page/page.h"

namespace tessera {
namespace {

using jinja::Concat;
using Exchange = std::shared_ptr<HttpExchange>;

constexpr std::string_view kModelPrefix = "/v1/models/";

// `path`: of the request, for errors.
HttpResponse JsonResponse(std::string_view path, const absl::StatusOr<std::string>& json) {
  if (json.ok()) return {.content_type = "application/json", .body = *json};
  return ApiErrorResponse(path, ApiErrorOf(json.status(), {}));
}

// Answers with what `work` makes of the body, here or, when that is large, on a worker.
void AnswerBy(InferenceContext* context, const Exchange& exchange,
              absl::StatusOr<std::string> (*work)(const InferenceContext&, std::string_view)) {
  const std::string path = exchange->request().path;
  std::optional<CallGate::Submission> submission = context->gate.BeginSubmission();
  if (!submission) {
    return exchange->Respond(
        JsonResponse(path, absl::UnavailableError("the server is shutting down; try another one")));
  }
  std::string body = exchange->TakeBody();
  const auto run = [context, work, path](const std::string& text) {
    return JsonResponse(path, Guarded([&] { return work(*context, text); }));
  };
  if (body.size() <= CallWorkers::kSmallCallBytes) return exchange->Respond(run(body));
  const auto ticket =
      context->workers.Add([exchange, run, held = *std::move(submission), text = std::move(body)] {
        exchange->Post(
            [exchange, response = run(text)]() mutable { exchange->Respond(std::move(response)); });
      });
  if (!ticket.ok()) exchange->Respond(JsonResponse(path, ticket.status()));
}

// A request that may be answered.
struct Asked {
  InferenceContext* context;
  const ApiOptions& options;
  const Exchange& exchange;
  const Caller& caller;
};

void RespondHealth(const Asked& asked) {
  const absl::Status healthy = asked.options.healthy();
  const bool is_up = healthy.ok() && asked.context->ready.load();
  if (is_up) return asked.exchange->Respond({});
  asked.exchange->Respond(HttpErrorResponse(
      {.status = 503,
       .message = healthy.ok() ? "the server is draining" : std::string(healthy.message())}));
}

// What is served where, and to whom; without a permission to everybody. Handlers of routes with a
// body get JSON only.
struct Route {
  std::string_view path;
  std::string_view methods;  // as in Allow
  bool has_body = false;
  std::optional<Permission> permission;
  void (*handle)(const Asked&);
};

constexpr std::string_view kPagePath = "/";

constexpr std::array<Route, 16> kRoutes = {{
    {kPagePath, "GET, HEAD", false, std::nullopt,
     [](const Asked& asked) { asked.exchange->Respond(PageResponse()); }},
    {"/metrics", "GET, HEAD", false, Permission::kObserve,
     [](const Asked& asked) {
       asked.exchange->Respond({.content_type = "text/plain; version=0.0.4; charset=utf-8",
                                .body = asked.options.metrics()});
     }},
    {"/v1/chat/completions", "POST", true, Permission::kGenerate,
     [](const Asked& asked) {
       StartApiGeneration(asked.context, asked.exchange, ApiKind::kChat, asked.caller);
     }},
    {"/v1/completions", "POST", true, Permission::kGenerate,
     [](const Asked& asked) {
       StartApiGeneration(asked.context, asked.exchange, ApiKind::kCompletion, asked.caller);
     }},
    {"/v1/responses", "POST", true, Permission::kGenerate,
     [](const Asked& asked) {
       StartApiGeneration(asked.context, asked.exchange, ApiKind::kResponses, asked.caller);
     }},
    {"/v1/messages", "POST", true, Permission::kGenerate,
     [](const Asked& asked) {
       StartApiGeneration(asked.context, asked.exchange, ApiKind::kMessages, asked.caller);
     }},
    {"/v1/messages/count_tokens", "POST", true, Permission::kGenerate,
     [](const Asked& asked) { AnswerBy(asked.context, asked.exchange, &CountTokensJson); }},
    {"/v1/embeddings", "POST", true, Permission::kGenerate,
     [](const Asked& asked) {
       asked.exchange->Respond(
           HttpErrorResponse({.status = 400,
                              .message = Concat("the model \"", asked.context->model->name,
                                                "\" generates text and has no embeddings"),
                              .param = "model"}));
     }},
    {"/v1/models", "GET, HEAD", false, Permission::kKnown,
     [](const Asked& asked) {
       asked.exchange->Respond(JsonResponse({}, ModelListJson(*asked.context)));
     }},
    {kModelPrefix, "GET, HEAD", false, Permission::kKnown,
     [](const Asked& asked) {
       const std::string_view path = asked.exchange->request().path;
       asked.exchange->Respond(
           JsonResponse(path, ModelCardJson(*asked.context, path.substr(kModelPrefix.size()))));
     }},
    {"/tokenize", "POST", true, Permission::kGenerate,
     [](const Asked& asked) { AnswerBy(asked.context, asked.exchange, &TokenizeJson); }},
    {"/detokenize", "POST", true, Permission::kGenerate,
     [](const Asked& asked) { AnswerBy(asked.context, asked.exchange, &DetokenizeJson); }},
    {"/health", "GET, HEAD", false, std::nullopt, &RespondHealth},
    {"/ping", "GET, POST", false, std::nullopt, &RespondHealth},
    {"/version", "GET, HEAD", false, Permission::kKnown,
     [](const Asked& asked) { asked.exchange->Respond(JsonResponse({}, VersionJson())); }},
    {"/load", "GET, HEAD", false, Permission::kObserve,
     [](const Asked& asked) {
       asked.exchange->Respond(JsonResponse({}, LoadJson(*asked.context)));
     }},
}};

const Route* FindRoute(std::string_view path) {
  const auto* found = std::find_if(kRoutes.begin(), kRoutes.end(), [path](const Route& route) {
    if (route.path == kModelPrefix) {
      return path.starts_with(kModelPrefix) && path.size() > kModelPrefix.size();
    }
    return route.path == path;
  });
  return found == kRoutes.end() ? nullptr : found;
}

bool Allows(const Route& route, std::string_view method) {
  const std::string_view all = route.methods;
  return all == method || all.starts_with(Concat(method, ",")) ||
         all.ends_with(Concat(", ", method));
}

// What keeps the request from a route.
std::optional<HttpResponse> Unroutable(const Route* route, const HttpRequest& request) {
  if (route == nullptr) {
    return ApiErrorResponse(
        request.path,
        {.status = 404, .message = Concat("there is no ", request.path.substr(0, 200))});
  }
  if (!Allows(*route, request.method)) {
    HttpResponse response = ApiErrorResponse(
        request.path,
        {.status = 405,
         .message = Concat(route->path, " takes ", route->methods, ", not ", request.method)});
    response.headers.push_back({"Allow", std::string(route->methods)});
    return response;
  }
  return std::nullopt;
}

// Whether the route reads such bodies.
std::optional<HttpResponse> Unreadable(const Route& route, const HttpRequest& request) {
  if (!route.has_body) return std::nullopt;
  const std::string_view coding = request.Header("content-encoding");
  if (!coding.empty() && coding != "identity") {
    return ApiErrorResponse(request.path,
                            {.status = 415, .message = "bodies must not be compressed"});
  }
  const std::string_view type = request.Header("content-type");
  const std::string media = absl::AsciiStrToLower(std::string(type.substr(0, type.find(';'))));
  if (!type.empty() && std::string(absl::StripAsciiWhitespace(media)) != "application/json") {
    return ApiErrorResponse(
        request.path,
        {.status = 415,
         .message = Concat("Content-Type must be application/json, got ", type.substr(0, 200))});
  }
  return std::nullopt;
}

// Adds headers to whatever answer comes.
class WithHeaders final : public HttpExchange {
 public:
  WithHeaders(Exchange inner, std::vector<HttpHeader> headers)
      : inner_(std::move(inner)), headers_(std::move(headers)) {}

  const HttpRequest& request() const override { return inner_->request(); }
  std::string TakeBody() override { return inner_->TakeBody(); }
  void Post(Callback work) override { inner_->Post(std::move(work)); }
  void Respond(HttpResponse response, Callback done) override {
    inner_->Respond(Extended(std::move(response)), std::move(done));
  }
  void BeginStream(HttpResponse head, bool is_last, Callback done) override {
    inner_->BeginStream(Extended(std::move(head)), is_last, std::move(done));
  }
  void Write(std::string piece, Callback done) override {
    inner_->Write(std::move(piece), std::move(done));
  }
  void WriteLast(std::string piece, Callback done) override {
    inner_->WriteLast(std::move(piece), std::move(done));
  }
  void SetIdlePiece(std::string piece, absl::Duration silence) override {
    inner_->SetIdlePiece(std::move(piece), silence);
  }
  void Abort() override { inner_->Abort(); }
  void OnGone(Callback gone) override { inner_->OnGone(std::move(gone)); }

 private:
  HttpResponse Extended(HttpResponse response) const {
    response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
    return response;
  }

  const Exchange inner_;
  const std::vector<HttpHeader> headers_;
};

// The context is needed for routes with a permission only.
absl::StatusOr<Caller> CallerOf(const InferenceContext* context, const Route& route,
                                const HttpRequest& request) {
  if (!route.permission) return Caller();
  return context->Authorize(
      {.authorization = request.Header("authorization"), .api_key = request.Header("x-api-key")},
      *route.permission);
}

HttpResponse PreflightResponse(const Route& route) {
  return {.status = 204,
          .headers = {{"Access-Control-Allow-Methods", std::string(route.methods)},
                      {"Access-Control-Allow-Headers",
                       "authorization, content-type, x-api-key, x-request-id, traceparent"},
                      {"Access-Control-Max-Age", "600"}}};
}

}  // namespace

void ApiHandler::Serve(InferenceContext* context) {
  absl::MutexLock lock(&mutex_);
  context_ = context;
}

std::vector<HttpHeader> ApiHandler::CorsHeaders(const HttpRequest& request) const {
  const std::string origin(request.Header("origin"));
  const std::vector<std::string>& known = options_.cors_origins;
  if (origin.empty() || known.empty()) return {};
  const bool is_any = std::find(known.begin(), known.end(), "*") != known.end();
  const bool is_known = std::find(known.begin(), known.end(), origin) != known.end();
  if (!is_any && !is_known) return {{"Vary", "Origin"}};
  return {{"Access-Control-Allow-Origin", is_any ? "*" : origin},
          {"Access-Control-Expose-Headers", "x-request-id"},
          {"Vary", "Origin"}};
}

void ApiHandler::Handle(const Exchange& exchange) {
  const HttpRequest& request = exchange->request();
  Exchange answered = exchange;
  std::vector<HttpHeader> headers = CorsHeaders(request);
  const bool is_allowed = headers.size() > 1;
  if (!headers.empty()) answered = std::make_shared<WithHeaders>(exchange, std::move(headers));
  const Route* route = FindRoute(request.path);
  if (!options_.page && request.path == kPagePath) route = nullptr;
  if (is_allowed && route != nullptr && request.method == "OPTIONS" &&
      !request.Header("access-control-request-method").empty()) {
    return answered->Respond(PreflightResponse(*route));
  }
  if (auto response = Unroutable(route, request)) return answered->Respond(*std::move(response));
  InferenceContext* const context = Context();
  if (context == nullptr && route->path != kPagePath) {
    return answered->Respond(
        ApiErrorResponse(request.path, {.status = 503, .message = "the model is being loaded"}));
  }
  const absl::StatusOr<Caller> caller = CallerOf(context, *route, request);
  if (!caller.ok()) return answered->Respond(JsonResponse(request.path, caller.status()));
  if (auto response = Unreadable(*route, request)) return answered->Respond(*std::move(response));
  route->handle({.context = context, .options = options_, .exchange = answered, .caller = *caller});
}

std::optional<HttpResponse> ApiHandler::RefuseHead(const HttpRequest& request) {
  const Route* route = FindRoute(request.path);
  InferenceContext* const context = Context();
  if (route == nullptr || context == nullptr) return std::nullopt;
  const absl::Status allowed = CallerOf(context, *route, request).status();
  if (allowed.ok()) return std::nullopt;
  HttpResponse response = JsonResponse(request.path, allowed);
  for (HttpHeader& header : CorsHeaders(request)) response.headers.push_back(std::move(header));
  return response;
}

InferenceContext* ApiHandler::Context() {
  absl::MutexLock lock(&mutex_);
  return context_;
}

}  // namespace tessera
