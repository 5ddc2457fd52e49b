#include "server/commands/wire_client.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "server/commands/http2_frames.h"

namespace tessera {
namespace {

using http2::Frame;
using http2::FrameType;

constexpr timeval kPatience = {.tv_sec = 20, .tv_usec = 0};

template <typename T>
absl::Status SetOption(int socket, int level, int option, const T& value) {
  if (setsockopt(socket, level, option, &value, sizeof(value)) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "setsockopt");
}

// When the kernel took the bytes from the network, if it says so.
std::optional<absl::Time> KernelArrival(msghdr* header) {
  for (cmsghdr* message = CMSG_FIRSTHDR(header); message != nullptr;
       message = CMSG_NXTHDR(header, message)) {
    if (message->cmsg_level != SOL_SOCKET || message->cmsg_type != SCM_TIMESTAMPING) continue;
    scm_timestamping stamps{};
    std::memcpy(&stamps, CMSG_DATA(message), sizeof(stamps));
    if (stamps.ts[0].tv_sec != 0) return absl::TimeFromTimespec(stamps.ts[0]);
  }
  return std::nullopt;
}

// The messages in `body` once it has ended.
absl::StatusOr<std::vector<std::string>> Messages(std::string_view body) {
  std::vector<std::string> messages;
  while (!body.empty()) {
    ASSIGN_OR_RETURN(const std::optional<std::string_view> message, http2::TakeMessage(&body));
    if (!message.has_value()) return absl::UnavailableError("the answer ends inside a message");
    messages.emplace_back(*message);
  }
  if (messages.empty()) {
    return absl::UnavailableError("the server ended the call without an answer");
  }
  return messages;
}

}  // namespace

absl::StatusOr<std::unique_ptr<WireClient>> WireClient::Connect(int32_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "socket");
  std::unique_ptr<WireClient> client(new WireClient(fd));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("nobody answers on port ", port));
  }
  RETURN_IF_ERROR(SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1));
  RETURN_IF_ERROR(SetOption(fd, SOL_SOCKET, SO_RCVTIMEO, kPatience));
  // Where this fails, arrivals are noted a little later, when this thread wakes.
  SetOption(fd, SOL_SOCKET, SO_TIMESTAMPING,
            int{SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE})
      .IgnoreError();
  RETURN_IF_ERROR(client->Send(http2::Greeting()));
  return client;
}

WireClient::~WireClient() { close(socket_); }

absl::Status WireClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return absl::UnavailableError("the server has closed the connection");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

absl::Status WireClient::Receive() {
  std::array<char, 16384> data;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(scm_timestamping))> control;
  iovec buffer{.iov_base = data.data(), .iov_len = data.size()};
  msghdr header{};
  header.msg_iov = &buffer;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t got = 0;
  do {
    got = recvmsg(socket_, &header, 0);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return absl::UnavailableError("the server does not answer");
  if (got == 0) return absl::UnavailableError("the server has closed the connection");
  last_arrival_ = KernelArrival(&header).value_or(absl::Now());
  received_.append(data.data(), static_cast<size_t>(got));
  return absl::OkStatus();
}

absl::StatusOr<bool> WireClient::Housekeep(const Frame& frame) {
  switch (frame.type) {
    case FrameType::kData:
    case FrameType::kHeaders:
    case FrameType::kRstStream:
      return false;
    case FrameType::kGoAway:
      return absl::UnavailableError("the server is closing the connection");
    case FrameType::kSettings:
    case FrameType::kPing:
      if ((frame.flags & http2::kAck) == 0) {
        const bool ping = frame.type == FrameType::kPing;
        RETURN_IF_ERROR(Send(http2::Encode(
            {.type = frame.type, .flags = http2::kAck, .payload = ping ? frame.payload : ""})));
      }
      return true;
    default:
      return true;  // windows, and what later versions may add
  }
}

absl::Status WireClient::TakeFrames(uint32_t stream, Progress* progress) {
  std::string_view left = received_;
  while (!progress->ended) {
    ASSIGN_OR_RETURN(const std::optional<Frame> frame, http2::TakeFrame(&left));
    if (!frame.has_value()) break;
    ASSIGN_OR_RETURN(const bool housekeeping, Housekeep(*frame));
    if (housekeeping || frame->stream != stream) continue;
    if (frame->type == FrameType::kRstStream) {
      return absl::UnavailableError("the server has broken off the call");
    }
    if (frame->type == FrameType::kData) progress->body.append(frame->payload);
    progress->ended = (frame->flags & http2::kEndStream) != 0;
  }
  received_.erase(0, received_.size() - left.size());
  return absl::OkStatus();
}

absl::StatusOr<WireAnswer> WireClient::Call(std::string_view path, std::string_view request) {
  const uint32_t stream = stream_;
  stream_ += 2;
  const bool known = known_path_ == path;
  const std::string headers = known ? http2::NextCallHeaders() : http2::FirstCallHeaders(path);
  known_path_ = path;
  const std::string message = http2::EncodeMessage(request);
  const std::string call = absl::StrCat(http2::Encode({.type = FrameType::kHeaders,
                                                       .flags = http2::kEndHeaders,
                                                       .stream = stream,
                                                       .payload = headers}),
                                        http2::Encode({.type = FrameType::kData,
                                                       .flags = http2::kEndStream,
                                                       .stream = stream,
                                                       .payload = message}));
  Progress progress;
  const absl::Time begun = absl::Now();
  RETURN_IF_ERROR(Send(call));
  while (!progress.ended) {
    RETURN_IF_ERROR(Receive());
    RETURN_IF_ERROR(TakeFrames(stream, &progress));
  }
  WireAnswer answer{.time = last_arrival_ - begun};
  ASSIGN_OR_RETURN(answer.messages, Messages(progress.body));
  return answer;
}

}  // namespace tessera
