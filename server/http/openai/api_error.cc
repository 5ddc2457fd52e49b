#include "server/http/openai/api_error.h"

#include <string>

#include "engine/text/jinja/concat.h"
#include "server/field_violations.h"
#include "server/json_text.h"
#include "server/retry_delay.h"
#include "tessera/v1/error_details.pb.h"

namespace tessera {
namespace {

int StatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kAlreadyExists:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string_view MessagesErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

std::string MessagesErrorJson(const HttpError& error) {
  return jinja::Concat("{\"type\":\"error\",\"error\":{\"type\":\"",
                       MessagesErrorType(error.status),
                       "\",\"message\":", JsonQuoted(error.message), "}}");
}

HttpResponse ApiErrorResponse(std::string_view path, const HttpError& error) {
  HttpResponse response = HttpErrorResponse(error);
  if (path == "/v1/messages" || path.starts_with("/v1/messages/")) {
    response.body = MessagesErrorJson(error);
  }
  return response;
}

HttpError ApiErrorOf(const absl::Status& status, const ApiRequest& request) {
  HttpError error{.status = StatusOf(status),
                  .message = std::string(status.message()),
                  .retry_delay = RetryDelayOf(status)};
  if (absl::IsNotFound(status)) error.param = "model";
  if (absl::IsAlreadyExists(status)) error.param = "request_id";
  const auto payload = status.GetPayload(kBadRequestTypeUrl);
  v1::BadRequest details;
  if (!payload || !details.ParseFromString(std::string(*payload)) ||
      details.field_violations().empty()) {
    return error;
  }
  error.message.clear();
  for (const auto& violation : details.field_violations()) {
    const std::string name = ApiFieldName(violation.field(), request);
    if (error.param.empty()) error.param = name;
    error.message +=
        jinja::Concat(error.message.empty() ? "" : "; ", name, ": ", violation.description());
  }
  return error;
}

}  // namespace tessera
