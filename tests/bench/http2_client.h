// A gRPC client without gRPC: it writes a call's bytes to a socket and notes when the answer's last
// byte arrives there, so that a measurement holds the server and the kernel, but neither the
// client's library nor the waking of its threads.
#ifndef TESSERA_TESTS_BENCH_HTTP2_CLIENT_H_
#define TESSERA_TESTS_BENCH_HTTP2_CLIENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

struct nghttp2_session;

namespace tessera {

struct Http2Answer {
  std::vector<std::string> messages;
  // From before the request is handed to the kernel until the kernel has received the last byte.
  absl::Duration time;
};

// One connection, one call at a time. Used by one thread.
class Http2Client {
 public:
  // To this machine's loopback device. UNAVAILABLE when nobody answers there.
  static absl::StatusOr<std::unique_ptr<Http2Client>> Connect(int32_t port);
  ~Http2Client();
  Http2Client(const Http2Client&) = delete;
  Http2Client& operator=(const Http2Client&) = delete;

  // `path` is "/package.Service/Method". UNAVAILABLE when the server ends the call or the
  // connection without an answer, or takes longer than some seconds; after it the connection is
  // of no use.
  absl::StatusOr<Http2Answer> Call(const std::string& path, std::string_view request);

  struct Exchange;  // the call under way

 private:
  explicit Http2Client(int socket) : socket_(socket) {}
  absl::Status BeginSession();
  // Everything that the session has to say, in one piece.
  absl::StatusOr<std::string> Outgoing();
  absl::Status Send(std::string_view bytes);
  // Gives the session what has come, notes when, and sends what it answers.
  absl::Status Receive();

  const int socket_;
  nghttp2_session* session_ = nullptr;
  absl::Time last_arrival_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_HTTP2_CLIENT_H_
