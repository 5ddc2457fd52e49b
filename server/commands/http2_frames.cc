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

// Places in the table of fields that HPACK starts with (RFC 7541, appendix A).
constexpr uint8_t kAuthority = 1;
constexpr uint8_t kPost = 3;
constexpr uint8_t kPath = 4;
constexpr uint8_t kHttp = 6;
constexpr uint8_t kContentType = 31;
// The first place after it: the newest field of those that were added.
constexpr uint8_t kNewest = 62;

// A string without Huffman's code; lengths below 127 are one byte.
std::string StringLiteral(std::string_view text) {
  TESSERA_CHECK(text.size() < 127);
  return absl::StrCat(BigEndian(text.size(), 1), absl::string_view(text.data(), text.size()));
}

// A field that is in the table as a whole (RFC 7541, 6.1).
std::string KnownField(uint8_t place) { return BigEndian(0x80U | place, 1); }

// A field that is added to the table (6.2.1); its name is there already, or 0.
std::string AddedField(uint8_t name_place, std::string_view value) {
  return absl::StrCat(BigEndian(0x40U | name_place, 1), StringLiteral(value));
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

std::string FirstCallHeaders(std::string_view path) {
  return absl::StrCat(KnownField(kPost), KnownField(kHttp), AddedField(kPath, path),
                      AddedField(kAuthority, "localhost"), AddedField(0, "te"),
                      StringLiteral("trailers"), AddedField(kContentType, "application/grpc"));
}

std::string NextCallHeaders() {
  return absl::StrCat(KnownField(kPost), KnownField(kHttp), KnownField(kNewest + 3),
                      KnownField(kNewest + 2), KnownField(kNewest + 1), KnownField(kNewest));
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
