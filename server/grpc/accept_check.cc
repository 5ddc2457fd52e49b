#include "server/grpc/accept_check.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "parallel/cluster/node_address.h"

namespace tessera {
namespace {

constexpr int kWaitMs = 250;  // for the connection, and for the first frame
constexpr absl::Duration kRepeat = absl::Seconds(1);
constexpr int kFailures = 3;

bool AwaitEvent(int file, int16_t events) {
  pollfd waiting = {.fd = file, .events = events, .revents = 0};
  return poll(&waiting, 1, kWaitMs) == 1;
}

// A TLS record: the alert close_notify.
constexpr std::array<unsigned char, 7> kGoodbye = {0x15, 0x03, 0x03, 0x00, 0x02, 0x01, 0x00};

std::string Reachable(const std::string& host) {
  if (host == "0.0.0.0") return "127.0.0.1";
  return host == "::" ? "::1" : host;
}

}  // namespace

AcceptCheck::AcceptCheck(const std::string& host, int32_t port, bool is_encrypted)
    : host_(Reachable(MakeHostPort(host, port).host)), port_(port), is_encrypted_(is_encrypted) {}

// True when `file` gets a connection to `address` and an answer from there.
bool AcceptCheck::Answers(int file, const sockaddr* address, socklen_t size) const {
  if (connect(file, address, size) != 0 && errno != EINPROGRESS) return false;
  if (!AwaitEvent(file, POLLOUT)) return false;
  if (is_encrypted_) send(file, kGoodbye.data(), kGoodbye.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (!AwaitEvent(file, POLLIN)) return false;
  char first = 0;
  const ssize_t count = recv(file, &first, sizeof(first), MSG_DONTWAIT);
  return count == 1 || (is_encrypted_ && count == 0);
}

bool AcceptCheck::Accepts(const sockaddr* address, socklen_t size) const {
  const int file = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const bool accepts = file >= 0 && Answers(file, address, size);
  if (file >= 0) close(file);
  return accepts;
}

absl::Status AcceptCheck::Check() {
  {
    absl::MutexLock lock(&mutex_);
    const absl::Time now = clock_.Now();
    if (now - checked_ < kRepeat) return last_;
    checked_ = now;  // less than kRepeat later nobody else connects
  }
  const absl::Status connected = Connect();
  absl::MutexLock lock(&mutex_);
  failures_ = connected.ok() ? 0 : failures_ + 1;
  return last_ = failures_ < kFailures ? absl::OkStatus() : connected;
}

absl::Status AcceptCheck::Connect() const {
  const absl::Status silent = absl::UnavailableError("the gRPC listener accepts no connections");
  if (IsUnixSocket(host_)) {
    const sockaddr_un name = UnixSocketName(host_);
    const bool accepts = Accepts(reinterpret_cast<const sockaddr*>(&name), sizeof(name));
    return accepts ? absl::OkStatus() : silent;
  }
  const addrinfo wanted = {.ai_flags = AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (getaddrinfo(host_.c_str(), absl::StrCat(port_).c_str(), &wanted, &found) != 0) {
    return absl::UnavailableError("the gRPC listener's address means nothing any more");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  return Accepts(found->ai_addr, found->ai_addrlen) ? absl::OkStatus() : silent;
}

}  // namespace tessera
