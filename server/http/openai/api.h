// The OpenAI-compatible HTTP API: which path is answered how.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/http/http_exchange.h"
#include "server/inference_context.h"

namespace tessera {

struct ApiOptions {
  // Origins whose pages may call the API from a browser; "*": any. Default: none.
  std::vector<std::string> cors_origins;
  // Not OK: /health says 503.
  std::function<absl::Status()> healthy;
  // The Prometheus text of /metrics; on the listener's thread.
  std::function<std::string()> metrics;
  // Whether GET / answers with the page to talk to the model.
  bool page = true;
};

// Answers from before the model is loaded until after the last request.
class ApiHandler {
 public:
  explicit ApiHandler(ApiOptions options) : options_(std::move(options)) {}

  // Until this is called, and after it is called with nullptr, everything but the page is 503. The
  // context outlives the listener, or the call with nullptr and the requests that had begun.
  void Serve(InferenceContext* context);

  // On the listener's thread.
  void Handle(const std::shared_ptr<HttpExchange>& exchange);
  // The same, before the body is read: what refuses the caller, if anything does.
  std::optional<HttpResponse> RefuseHead(const HttpRequest& request);

 private:
  // The headers that let a browser's page read the answer.
  std::vector<HttpHeader> CorsHeaders(const HttpRequest& request) const;

  InferenceContext* Context();

  const ApiOptions options_;
  absl::Mutex mutex_;
  InferenceContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_H_
