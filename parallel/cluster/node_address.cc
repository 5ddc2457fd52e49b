#include "parallel/cluster/node_address.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr absl::string_view kUnixPrefix = "unix:";

socklen_t SizeOf(const sockaddr* address) {
  return address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
}

// Empty when the address has no numeric form.
std::string Numeric(const sockaddr* address, socklen_t size) {
  char host[NI_MAXHOST] = "";
  if (getnameinfo(address, size, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0) return "";
  return host;
}

// The interface's IPv4 address, else its IPv6 address; empty when there is no such interface.
std::string AddressOfInterface(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "";
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  std::string found;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || name != entry->ifa_name) continue;
    const int family = entry->ifa_addr->sa_family;
    if (family == AF_INET) return Numeric(entry->ifa_addr, SizeOf(entry->ifa_addr));
    if (family == AF_INET6) found = Numeric(entry->ifa_addr, SizeOf(entry->ifa_addr));
  }
  return found;
}

bool IsLoopbackAddress(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  const in6_addr& v6 = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(&v6) ||
         (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == IN_LOOPBACKNET);
}

// The file of a socket outlives a program that was killed; then nobody does.
bool SomebodyAnswersAt(absl::string_view address) {
  const sockaddr_un name = UnixSocketName(address);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool answers = connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0;
  close(fd);
  return answers;
}

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<AddressList> Lookup(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &list);
  if (error == 0) return AddressList(list, &freeaddrinfo);
  return absl::NotFoundError(absl::StrCat("'", host, "' is neither a network interface nor a ",
                                          "host: ", gai_strerror(error)));
}

}  // namespace

std::string HostPort::ToString() const {
  if (IsUnixSocket(host)) return host;
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

HostPort MakeHostPort(absl::string_view host, int port) {
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  return {.host = std::string(host), .port = port};
}

bool IsUnixSocket(absl::string_view address) { return absl::StartsWith(address, kUnixPrefix); }

sockaddr_un UnixSocketName(absl::string_view address) {
  const absl::string_view path = absl::StripPrefix(address, kUnixPrefix);
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (path.size() < sizeof(name.sun_path)) path.copy(name.sun_path, path.size());
  return name;
}

bool CanBindUnixSocket(absl::string_view address) {
  const std::string path(absl::StripPrefix(address, kUnixPrefix));
  if (path.empty() || path.size() >= sizeof(sockaddr_un::sun_path)) return false;
  const std::string folder = std::filesystem::absolute(path).parent_path();
  return access(folder.c_str(), W_OK) == 0 && !SomebodyAnswersAt(address);
}

bool IsLoopback(const std::string& host) {
  if (IsUnixSocket(host)) return true;
  const auto list = Lookup(host, 0);
  if (!list.ok()) return false;
  for (const addrinfo* entry = list->get(); entry != nullptr; entry = entry->ai_next) {
    if (!IsLoopbackAddress(entry->ai_addr)) return false;
  }
  return true;
}

bool IsTaken(const HostPort& address) {
  const auto list = Lookup(address.host, address.port);
  if (!list.ok()) return false;
  const sockaddr* const name = (*list)->ai_addr;
  const int listener = socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return false;
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool taken = bind(listener, name, (*list)->ai_addrlen) != 0 && errno == EADDRINUSE;
  close(listener);
  return taken;
}

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  HostPort parsed;
  if (colon != std::string::npos && colon > 0 &&
      absl::SimpleAtoi(text.substr(colon + 1), &parsed.port) && parsed.port >= 0 &&
      parsed.port <= 65535) {
    absl::string_view host = absl::string_view(text).substr(0, colon);
    if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) host = "";
    parsed.host = std::string(host);
    if (!host.empty() && !absl::StrContains(host, '/')) return parsed;  // no URLs
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not an address of the form HOST:PORT"));
}

absl::StatusOr<std::string> ResolveBindHost(const std::string& host) {
  std::string address = AddressOfInterface(host);
  if (address.empty()) {
    ASSIGN_OR_RETURN(const AddressList list, Lookup(host, 0));
    address = Numeric(list->ai_addr, list->ai_addrlen);
  }
  if (address != "0.0.0.0" && address != "::") return address;
  return absl::InvalidArgumentError(
      absl::StrCat("'", host, "' would listen on every network; name one interface or address"));
}

absl::StatusOr<std::string> LocalAddressTowards(const HostPort& peer) {
  ASSIGN_OR_RETURN(const AddressList list, Lookup(peer.host, peer.port));
  // Connecting a datagram socket sends nothing; it only chooses the route.
  const int fd = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage local{};
  socklen_t size = sizeof(local);
  auto* address = reinterpret_cast<sockaddr*>(&local);
  const bool found = fd >= 0 && connect(fd, list->ai_addr, list->ai_addrlen) == 0 &&
                     getsockname(fd, address, &size) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (found) return Numeric(address, size);
  return absl::UnavailableError(
      absl::StrCat("no route to ", peer.ToString(), ": ", std::generic_category().message(error)));
}

}  // namespace tessera
