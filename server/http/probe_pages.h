// /metrics, /healthz and /readyz on a port of their own: what watches the server does not wait for
// those who use it.
#ifndef TESSERA_SERVER_HTTP_PROBE_PAGES_H_
#define TESSERA_SERVER_HTTP_PROBE_PAGES_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "server/http/http_exchange.h"

namespace tessera {

// Called on the listener's thread; must not block for long.
struct ProbePages {
  std::function<std::string()> metrics;   // Prometheus text
  std::function<absl::Status()> healthy;  // liveness: not OK means restart me
  std::function<absl::Status()> ready;    // readiness: not OK means send no requests
};

// Answers GET and HEAD, to anything else 404 or 405.
HttpHandler ProbeHandler(ProbePages pages);

}  // namespace tessera

#endif  // TESSERA_SERVER_HTTP_PROBE_PAGES_H_
