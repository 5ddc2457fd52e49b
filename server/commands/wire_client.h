// A gRPC client without gRPC: it writes a call's bytes to a socket and notes when the answer's last
// byte arrives there, so that a measurement holds the server and the kernel, but neither the
// client's library nor the waking of its threads.
#ifndef TESSERA_SERVER_COMMANDS_WIRE_CLIENT_H_
#define TESSERA_SERVER_COMMANDS_WIRE_CLIENT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/commands/http2_frames.h"

namespace tessera {

struct WireAnswer {
  std::vector<std::string> messages;
  // From before the request is handed to the kernel until the kernel has received the last byte.
  absl::Duration time;
};

// One connection, one call at a time, at most 2^31 bytes of answers. Used by one thread.
class WireClient {
 public:
  // To this machine's loopback device. UNAVAILABLE when nobody answers there.
  static absl::StatusOr<std::unique_ptr<WireClient>> Connect(int32_t port);
  ~WireClient();
  WireClient(const WireClient&) = delete;
  WireClient& operator=(const WireClient&) = delete;

  // `path` is "/package.Service/Method". UNAVAILABLE when the server ends the call or the
  // connection without an answer, or takes longer than some seconds.
  absl::StatusOr<WireAnswer> Call(std::string_view path, std::string_view request);

 private:
  explicit WireClient(int socket) : socket_(socket) {}
  absl::Status Send(std::string_view bytes);
  // Appends what has come to received_ and notes when.
  absl::Status Receive();
  // Answers what the server asks of the connection; false when the frame belongs to a call.
  absl::StatusOr<bool> Housekeep(const http2::Frame& frame);
  struct Progress {
    bool ended = false;
    std::string body;  // of the data frames so far
  };
  // Takes the whole frames off received_.
  absl::Status TakeFrames(uint32_t stream, Progress* progress);

  const int socket_;
  uint32_t stream_ = 1;     // of the next call
  std::string known_path_;  // of the fields in the server's table
  std::string received_;
  absl::Time last_arrival_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_WIRE_CLIENT_H_
