// Errors in the form of OpenAI's API: {"error":{"message","type","param","code"}}.
#ifndef TESSERA_SERVER_HTTP_HTTP_ERROR_H_
#define TESSERA_SERVER_HTTP_HTTP_ERROR_H_

#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "server/http/http_message.h"

namespace tessera {

struct HttpError {
  int status = 500;
  std::string message;
  std::string param;  // dotted name of the field that is wrong; empty: null
  absl::Duration retry_delay = absl::Seconds(1);  // of 429 and 503
};

// "BadRequestError" and so on, by status.
std::string_view HttpErrorType(int status);
// The JSON object.
std::string HttpErrorJson(const HttpError& error);
// With Retry-After, in whole seconds, where trying again later may help (429, 503).
HttpResponse HttpErrorResponse(const HttpError& error);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_HTTP_ERROR_H_
