// Whether a gRPC listener still accepts connections.
#ifndef TESSERA_SERVER_GRPC_ACCEPT_CHECK_H_
#define TESSERA_SERVER_GRPC_ACCEPT_CHECK_H_

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/monotonic_clock.h"

namespace tessera {

// Connects as a client does and waits for the server's first frame: the kernel alone completes
// connections that nobody accepts any more, for example after the process had no file handles left.
// Thread-safe.
class AcceptCheck {
 public:
  // `host` as it was given to the server; a wildcard address means this machine. A server that
  // speaks TLS (`is_encrypted`) waits for its client to begin: it is told goodbye and must hang up.
  AcceptCheck(const std::string& host, int32_t port, bool is_encrypted = false);

  // Waits for half a second at most; asked more often than once a second, or while somebody else's
  // question waits, it repeats its last answer, so that a flood of probes costs no connections and
  // no threads. Three failures in a row count, one or
  // two do not: on a starved machine a server that works may be late, and so may all of its peers.
  absl::Status Check();

 private:
  absl::Status Connect() const;
  bool Accepts(const sockaddr* address, socklen_t size) const;
  bool Answers(int file, const sockaddr* address, socklen_t size) const;

  const std::string host_;
  const int32_t port_;
  const bool is_encrypted_;
  const MonotonicClock clock_{};
  absl::Mutex mutex_;
  absl::Time checked_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status last_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_ACCEPT_CHECK_H_
