// How the commands of this binary, and measurements, reach a server.
#ifndef TESSERA_SERVER_GRPC_CLIENT_CHANNEL_H_
#define TESSERA_SERVER_GRPC_CLIENT_CHANNEL_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// INVALID_ARGUMENT unless `address` is HOST:PORT or unix:PATH.
absl::Status CheckServerAddress(const std::string& address);

struct ServerTarget {
  std::string address;    // HOST:PORT or unix:PATH
  bool uses_tls = false;  // also with any file below; Unix sockets never do
  // PEM files, may be empty: who signs the server's certificate (empty: the system's authorities),
  // and what the client shows.
  std::string authority;
  std::string certificate;
  std::string key;
  std::string api_key_file;  // holds the API key; empty: none
};

// The value of the metadata "authorization" for every call there, empty without an API key. An
// error names the file that is of no use.
absl::StatusOr<std::string> AuthorizationFor(const ServerTarget& target);

// An HTTP proxy that the environment names is not asked for servers on this machine. Blocks until
// the channel is ready; UNAVAILABLE when nobody answers there or the two do not trust each other,
// with the reason; other errors name a file that is of no use.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenClientChannel(const ServerTarget& target);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_CLIENT_CHANNEL_H_
