#include "tests/bench/http2_client.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"

namespace tessera {

struct Http2Client::Exchange {
  std::string request;  // with gRPC's prefix
  size_t num_sent = 0;
  std::string body;  // of the answer, so far
  bool ended = false;
  uint32_t error = NGHTTP2_NO_ERROR;
};

namespace {

using Exchange = Http2Client::Exchange;

constexpr timeval kPatience = {.tv_sec = 20, .tv_usec = 0};
constexpr int32_t kLargestWindow = 0x7fffffff;
constexpr size_t kMessagePrefix = 5;  // of gRPC: a flag and a length of 4 bytes

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

std::string WithPrefix(std::string_view message) {
  std::string bytes(1, '\0');  // not compressed
  for (int shift = 24; shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<char>(message.size() >> shift));
  }
  return bytes.append(message);
}

// The messages in `body` once it has ended.
absl::StatusOr<std::vector<std::string>> Messages(std::string_view body) {
  std::vector<std::string> messages;
  while (!body.empty()) {
    size_t length = 0;
    for (size_t i = 1; i < std::min(body.size(), kMessagePrefix); ++i) {
      length = length << 8 | static_cast<uint8_t>(body[i]);
    }
    if (body.size() < kMessagePrefix || body.size() - kMessagePrefix < length) {
      return absl::UnavailableError("the answer ends inside a message");
    }
    if (body.front() != 0) {
      return absl::UnavailableError("the server sent a compressed message, which nobody asked for");
    }
    messages.emplace_back(body.substr(kMessagePrefix, length));
    body.remove_prefix(kMessagePrefix + length);
  }
  if (messages.empty()) {
    return absl::UnavailableError("the server ended the call without an answer");
  }
  return messages;
}

nghttp2_nv Field(std::string_view name, std::string_view value) {
  const auto bytes = [](std::string_view text) {
    return const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(text.data()));  // only read
  };
  return {.name = bytes(name),
          .value = bytes(value),
          .namelen = name.size(),
          .valuelen = value.size(),
          .flags = NGHTTP2_NV_FLAG_NONE};
}

ssize_t GiveRequest(nghttp2_session* /*session*/, int32_t /*stream*/, uint8_t* buffer, size_t size,
                    uint32_t* flags, nghttp2_data_source* source, void* /*user*/) {
  auto& exchange = *static_cast<Exchange*>(source->ptr);
  const size_t count = std::min(size, exchange.request.size() - exchange.num_sent);
  std::copy_n(exchange.request.data() + exchange.num_sent, count, buffer);
  exchange.num_sent += count;
  if (exchange.num_sent == exchange.request.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
  return static_cast<ssize_t>(count);
}

int TakeBody(nghttp2_session* session, uint8_t /*flags*/, int32_t stream, const uint8_t* data,
             size_t size, void* /*user*/) {
  auto* const exchange =
      static_cast<Exchange*>(nghttp2_session_get_stream_user_data(session, stream));
  if (exchange != nullptr) exchange->body.append(reinterpret_cast<const char*>(data), size);
  return 0;
}

int TakeEnd(nghttp2_session* session, int32_t stream, uint32_t error, void* /*user*/) {
  auto* const exchange =
      static_cast<Exchange*>(nghttp2_session_get_stream_user_data(session, stream));
  if (exchange == nullptr) return 0;
  exchange->ended = true;
  exchange->error = error;
  return 0;
}

absl::Status ToStatus(ssize_t code) {
  if (code >= 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("HTTP/2: ", nghttp2_strerror(static_cast<int>(code))));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Http2Client>> Http2Client::Connect(int32_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, "socket");
  std::unique_ptr<Http2Client> client(new Http2Client(fd));
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
  RETURN_IF_ERROR(client->BeginSession());
  return client;
}

Http2Client::~Http2Client() {
  nghttp2_session_del(session_);
  close(socket_);
}

absl::Status Http2Client::BeginSession() {
  nghttp2_session_callbacks* callbacks = nullptr;
  RETURN_IF_ERROR(ToStatus(nghttp2_session_callbacks_new(&callbacks)));
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, &TakeBody);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, &TakeEnd);
  const int created = nghttp2_session_client_new(&session_, callbacks, this);
  nghttp2_session_callbacks_del(callbacks);
  RETURN_IF_ERROR(ToStatus(created));
  // Answers never wait for a window.
  const nghttp2_settings_entry window = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kLargestWindow};
  RETURN_IF_ERROR(ToStatus(nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &window, 1)));
  RETURN_IF_ERROR(ToStatus(
      nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kLargestWindow)));
  ASSIGN_OR_RETURN(const std::string greeting, Outgoing());
  return Send(greeting);
}

absl::StatusOr<std::string> Http2Client::Outgoing() {
  std::string bytes;
  while (true) {
    const uint8_t* piece = nullptr;
    const ssize_t size = nghttp2_session_mem_send(session_, &piece);
    RETURN_IF_ERROR(ToStatus(size));
    if (size == 0) return bytes;
    bytes.append(reinterpret_cast<const char*>(piece), static_cast<size_t>(size));
  }
}

absl::Status Http2Client::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return absl::UnavailableError("the server has closed the connection");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

absl::Status Http2Client::Receive() {
  std::array<uint8_t, 16384> data;
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
  RETURN_IF_ERROR(
      ToStatus(nghttp2_session_mem_recv(session_, data.data(), static_cast<size_t>(got))));
  ASSIGN_OR_RETURN(const std::string answer, Outgoing());
  return Send(answer);
}

absl::StatusOr<Http2Answer> Http2Client::Call(const std::string& path, std::string_view request) {
  Exchange exchange{.request = WithPrefix(request)};
  const std::array<nghttp2_nv, 6> headers = {
      Field(":method", "POST"), Field(":scheme", "http"),
      Field(":path", path),     Field(":authority", "localhost"),
      Field("te", "trailers"),  Field("content-type", "application/grpc")};
  const nghttp2_data_provider body = {.source = {.ptr = &exchange}, .read_callback = &GiveRequest};
  const int32_t stream =
      nghttp2_submit_request(session_, nullptr, headers.data(), headers.size(), &body, &exchange);
  RETURN_IF_ERROR(ToStatus(stream));
  ASSIGN_OR_RETURN(const std::string call, Outgoing());
  const absl::Time begun = absl::Now();
  RETURN_IF_ERROR(Send(call));
  while (!exchange.ended) {
    RETURN_IF_ERROR(Receive());
    if (!exchange.ended && nghttp2_session_want_read(session_) == 0) {
      return absl::UnavailableError("the server ends the connection or does not speak HTTP/2");
    }
  }
  if (exchange.error != NGHTTP2_NO_ERROR) {
    return absl::UnavailableError(absl::StrCat("the server has broken off the call: ",
                                               nghttp2_http2_strerror(exchange.error)));
  }
  Http2Answer answer{.time = last_arrival_ - begun};
  ASSIGN_OR_RETURN(answer.messages, Messages(exchange.body));
  return answer;
}

}  // namespace tessera
