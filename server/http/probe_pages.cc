#include "server/http/probe_pages.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/http/http_error.h"

namespace tessera {
namespace {

HttpResponse StatePage(const absl::Status& status) {
  return {.status = status.ok() ? 200 : 503,
          .content_type = "text/plain; charset=utf-8",
          .body = status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n")};
}

HttpResponse PageOf(const ProbePages& pages, const HttpRequest& request) {
  const bool is_known =
      request.path == "/metrics" || request.path == "/healthz" || request.path == "/readyz";
  if (!is_known) {
    return HttpErrorResponse(
        {.status = 404, .message = "not found; there are /metrics, /healthz and /readyz"});
  }
  if (request.method != "GET" && request.method != "HEAD") {
    HttpResponse response = HttpErrorResponse({.status = 405, .message = "only GET and HEAD"});
    response.headers.push_back({"Allow", "GET, HEAD"});
    return response;
  }
  if (request.path == "/healthz") return StatePage(pages.healthy());
  if (request.path == "/readyz") return StatePage(pages.ready());
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = pages.metrics()};
}

}  // namespace

HttpHandler ProbeHandler(ProbePages pages) {
  return [pages = std::move(pages)](const std::shared_ptr<HttpExchange>& exchange) {
    exchange->Respond(PageOf(pages, exchange->request()));
  };
}

}  // namespace tessera
