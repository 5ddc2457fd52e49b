#include "server/commands/http2_frames.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera::http2 {
namespace {

constexpr size_t kFrameHeader = 9;
constexpr size_t kMaxPayload = size_t{16} << 10;
constexpr size_t kMessagePrefix = 5;
constexpr uint32_t kLargestWindow = 0x7fffffff;
constexpr uint32_t kFirstWindow = 65535;  // of a connection, before any update
constexpr uint16_t kInitialWindowSize = 4;

// `size` bytes, the most significant first.
std::string BigEndian(uint64_t value, int size) {
  std::string bytes;
  for (int shift = 8 * (size - 1); shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<char>(value >> shift));
  }
  return bytes;
}

uint64_t FromBigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

// A literal field that no table remembers (RFC 7541, 6.2.2); lengths below 127 are one byte.
std::string HeaderField(std::string_view name, std::string_view value) {
  TESSERA_CHECK(name.size() < 127 && value.size() < 127);
  const std::string kinds(1, '\0');
  return absl::StrCat(kinds, BigEndian(name.size(), 1), absl::string_view(name.data(), name.size()),
                      BigEndian(value.size(), 1), absl::string_view(value.data(), value.size()));
}

}  // namespace

std::string Encode(const Frame& frame) {
  TESSERA_CHECK(frame.payload.size() <= kMaxPayload);
  return absl::StrCat(BigEndian(frame.payload.size(), 3),
                      BigEndian(static_cast<uint8_t>(frame.type), 1), BigEndian(frame.flags, 1),
                      BigEndian(frame.stream, 4),
                      absl::string_view(frame.payload.data(), frame.payload.size()));
}

absl::StatusOr<std::optional<Frame>> TakeFrame(std::string_view* bytes) {
  if (bytes->size() < kFrameHeader) return std::nullopt;
  const size_t length = FromBigEndian(bytes->substr(0, 3));
  if (length > kMaxPayload) {
    return absl::InvalidArgumentError(
        absl::StrCat("the peer sent an HTTP/2 frame of ", length, " bytes, more than allowed"));
  }
  if (bytes->size() < kFrameHeader + length) return std::nullopt;
  const Frame frame{.type = static_cast<FrameType>((*bytes)[3]),
                    .flags = static_cast<uint8_t>((*bytes)[4]),
                    .stream = static_cast<uint32_t>(FromBigEndian(bytes->substr(5, 4))) &
                              kLargestWindow,  // the first bit means nothing
                    .payload = bytes->substr(kFrameHeader, length)};
  const bool may_be_padded = frame.type == FrameType::kData || frame.type == FrameType::kHeaders;
  if (may_be_padded && (frame.flags & kPadded) != 0) {
    return absl::InvalidArgumentError(
        "the peer sent a padded HTTP/2 frame, as no gRPC server does");
  }
  bytes->remove_prefix(kFrameHeader + length);
  return frame;
}

std::string Greeting() {
  const std::string settings =
      absl::StrCat(BigEndian(kInitialWindowSize, 2), BigEndian(kLargestWindow, 4));
  const std::string window = BigEndian(kLargestWindow - kFirstWindow, 4);
  return absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                      Encode({.type = FrameType::kSettings, .payload = settings}),
                      Encode({.type = FrameType::kWindowUpdate, .payload = window}));
}

std::string CallHeaders(std::string_view path) {
  return absl::StrCat(HeaderField(":method", "POST"), HeaderField(":scheme", "http"),
                      HeaderField(":path", path), HeaderField(":authority", "localhost"),
                      HeaderField("te", "trailers"),
                      HeaderField("content-type", "application/grpc"));
}

std::string EncodeMessage(std::string_view message) {
  return absl::StrCat(BigEndian(0, 1), BigEndian(message.size(), 4),
                      absl::string_view(message.data(), message.size()));
}

absl::StatusOr<std::optional<std::string_view>> TakeMessage(std::string_view* bytes) {
  if (bytes->size() < kMessagePrefix) return std::nullopt;
  if (bytes->front() != 0) {
    return absl::InvalidArgumentError("the peer sent a compressed message, which nobody asked for");
  }
  const size_t length = FromBigEndian(bytes->substr(1, 4));
  if (bytes->size() - kMessagePrefix < length) return std::nullopt;
  const std::string_view message = bytes->substr(kMessagePrefix, length);
  bytes->remove_prefix(kMessagePrefix + length);
  return message;
}

}  // namespace tessera::http2
