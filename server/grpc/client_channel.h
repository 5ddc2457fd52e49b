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

// `address` is HOST:PORT or unix:PATH. An HTTP proxy that the environment names is not asked for
// servers on this machine. Blocks until the channel is ready; UNAVAILABLE when nobody answers
// there.
absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenClientChannel(const std::string& address);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_CLIENT_CHANNEL_H_
