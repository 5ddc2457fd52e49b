// Errors of the server as errors of the HTTP API.
#ifndef TESSERA_SERVER_HTTP_OPENAI_API_ERROR_H_
#define TESSERA_SERVER_HTTP_OPENAI_API_ERROR_H_

#include "absl/status/status.h"
#include "server/http/http_error.h"
#include "server/http/openai/api_request.h"

namespace tessera {

// Fields of a google.rpc.BadRequest get the API's names; `request` may be one that could not be
// read to its end.
HttpError ApiErrorOf(const absl::Status& status, const ApiRequest& request);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_OPENAI_API_ERROR_H_
