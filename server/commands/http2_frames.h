// As much of HTTP/2 (RFC 9113) and of gRPC's framing as one client needs that asks the same call
// again and again and only counts bytes and time: frames, and headers it writes but never reads.
#ifndef TESSERA_SERVER_COMMANDS_HTTP2_FRAMES_H_
#define TESSERA_SERVER_COMMANDS_HTTP2_FRAMES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera::http2 {

enum class FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kRstStream = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};

constexpr uint8_t kEndStream = 0x1;  // of data and headers
constexpr uint8_t kAck = 0x1;        // of settings and pings
constexpr uint8_t kEndHeaders = 0x4;
constexpr uint8_t kPadded = 0x8;

struct Frame {
  FrameType type = FrameType::kData;  // may be a number that has no name here
  uint8_t flags = 0;
  uint32_t stream = 0;
  std::string_view payload;
};

std::string Encode(const Frame& frame);
// Takes the first frame off `bytes`, to which its payload points; nullopt while it is incomplete,
// INVALID_ARGUMENT when it is longer than a peer may send unasked (16 KiB), or padded.
absl::StatusOr<std::optional<Frame>> TakeFrame(std::string_view* bytes);

// What a client says first: the preface and settings, and all the flow control it will ever need.
std::string Greeting();

// The headers of a gRPC call of `path` ("/package.Service/Method"). As every gRPC client does, the
// first call teaches the connection's table its fields, and later ones name their places there.
std::string FirstCallHeaders(std::string_view path);
// Of another call of the path that FirstCallHeaders() last had on this connection.
std::string NextCallHeaders();

// A message with gRPC's prefix, and the other way round: nullopt while incomplete,
// INVALID_ARGUMENT for a compressed one.
std::string EncodeMessage(std::string_view message);
absl::StatusOr<std::optional<std::string_view>> TakeMessage(std::string_view* bytes);

}  // namespace tessera::http2

#endif  // TESSERA_SERVER_COMMANDS_HTTP2_FRAMES_H_
