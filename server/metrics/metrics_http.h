// /metrics, /healthz and /readyz over plain HTTP.
#ifndef TESSERA_SERVER_METRICS_METRICS_HTTP_H_
#define TESSERA_SERVER_METRICS_METRICS_HTTP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// Called on listener threads; must not block for long.
struct MetricsPages {
  std::function<std::string()> metrics;   // Prometheus text
  std::function<absl::Status()> healthy;  // liveness: not OK means restart me
  std::function<absl::Status()> ready;    // readiness: not OK means send no requests
};

class MetricsHttp {
 public:
  // port 0: a free one. UNAVAILABLE when the port is taken.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(const std::string& host, int32_t port,
                                                            MetricsPages pages);
  virtual ~MetricsHttp() = default;
  virtual int32_t port() const = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_METRICS_METRICS_HTTP_H_
