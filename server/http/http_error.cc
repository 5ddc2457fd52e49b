#include "server/http/http_error.h"

#include "absl/strings/str_cat.h"
#include "server/json_text.h"

namespace tessera {

std::string_view HttpErrorType(int status) {
  switch (status) {
    case 401:
      return "AuthenticationError";
    case 403:
      return "PermissionDeniedError";
    case 404:
      return "NotFoundError";
    case 429:
      return "RateLimitError";
    case 503:
      return "ServiceUnavailableError";
    default:
      return status >= 500 ? "InternalServerError" : "BadRequestError";
  }
}

std::string HttpErrorJson(const HttpError& error) {
  return absl::StrCat("{\"error\":{\"message\":", JsonQuoted(error.message), ",\"type\":\"",
                      std::string(HttpErrorType(error.status)),
                      "\",\"param\":", error.param.empty() ? "null" : JsonQuoted(error.param),
                      ",\"code\":", error.status, "}}");
}

HttpResponse HttpErrorResponse(const HttpError& error) {
  HttpResponse response{
      .status = error.status, .content_type = "application/json", .body = HttpErrorJson(error)};
  if (error.status == 429 || error.status == 503) {
    const absl::Duration delay = absl::Ceil(error.retry_delay, absl::Seconds(1));
    response.headers.push_back({"Retry-After", absl::StrCat(absl::ToInt64Seconds(delay))});
  }
  if (error.status == 401) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  return response;
}

}  // namespace tessera
