// Addresses of this and other programs. Nodes listen at a named interface or address, never at all.
#ifndef TESSERA_PARALLEL_CLUSTER_NODE_ADDRESS_H_
#define TESSERA_PARALLEL_CLUSTER_NODE_ADDRESS_H_

#include <sys/un.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

struct HostPort {
  std::string host;  // without brackets; or unix:PATH
  int port = 0;      // of no meaning for Unix sockets
  std::string ToString() const;
};

// Of a host that may have brackets.
HostPort MakeHostPort(absl::string_view host, int port);

// The address of a Unix domain socket: "unix:PATH".
bool IsUnixSocket(absl::string_view address);

// For connect(); a path that is too long leaves the name empty.
sockaddr_un UnixSocketName(absl::string_view address);

// The path is short enough, its folder can be written, and nobody answers there.
bool CanBindUnixSocket(absl::string_view address);

// A Unix domain socket, or a host whose every address is this machine's loopback.
bool IsLoopback(const std::string& host);

// Another program listens there. False when that cannot be told.
bool IsTaken(const HostPort& address);

// "HOST:PORT" or "[V6]:PORT"; port 0 … 65535.
absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

// The numeric address of an interface ("eth0", "lo"), a host name or an address.
// INVALID_ARGUMENT for wildcard addresses (they would listen on every network), NOT_FOUND for
// names that mean nothing here.
absl::StatusOr<std::string> ResolveBindHost(const std::string& host);

// The address of this machine from which `peer` is reached.
absl::StatusOr<std::string> LocalAddressTowards(const HostPort& peer);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_NODE_ADDRESS_H_
