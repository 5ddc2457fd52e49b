// The head of a request, read strictly: whatever two programs might read differently is refused, so
// that no request can hide in another one behind a proxy.
#ifndef TESSERA_SERVER_HTTP_REQUEST_HEAD_H_
#define TESSERA_SERVER_HTTP_REQUEST_HEAD_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/http_message.h"

namespace tessera {

// Why a request cannot be served; the connection ends with it.
struct HttpRefusal {
  int status = 400;
  std::string message;
};

struct HeadLimits {
  size_t target_bytes = 8 << 10;
  size_t fields = 100;
};

// `head` is everything up to and with the empty line. Refused: lines that do not end in CR LF,
// folded lines, control characters, names that are no tokens (a space before the colon), several
// Content-Length or Transfer-Encoding or both, lengths that are not decimal, codings other than
// chunked, HTTP/1.1 without Host, several Host, other versions, targets and fields over the limits.
// Fills everything of `request` but body and id.
std::optional<HttpRefusal> ReadRequestHead(std::string_view head, const HeadLimits& limits,
                                           HttpRequest* request);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_REQUEST_HEAD_H_
