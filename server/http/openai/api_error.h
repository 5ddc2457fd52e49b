// Errors of the server as errors of the HTTP API.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_ERROR_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_ERROR_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/http/http_error.h"
#include "server/http/openai/api_request.h"

namespace tessera {

// Fields of a google.rpc.BadRequest get the API's names; `request` may be one that could not be
// read to its end.
HttpError ApiErrorOf(const absl::Status& status, const ApiRequest& request);

// The error as clients of that path know errors: OpenAI's form, or for /v1/messages Anthropic's,
// {"type":"error","error":{"type","message"}}.
HttpResponse ApiErrorResponse(std::string_view path, const HttpError& error);
std::string MessagesErrorJson(const HttpError& error);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_ERROR_H_
