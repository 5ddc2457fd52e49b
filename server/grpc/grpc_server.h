// The gRPC front end: tessera.v1.Inference, grpc.health.v1.Health and reflection on one port.
#ifndef TESSERA_SERVER_GRPC_GRPC_SERVER_H_
#define TESSERA_SERVER_GRPC_GRPC_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tessera {

struct InferenceContext;
class ServerTls;

struct GrpcServerOptions {
  std::string host = "127.0.0.1";  // or unix:PATH
  int32_t port = 50051;            // 0: a free one; of no meaning for a Unix socket
  bool reflection = true;
  // After this time, give or take a tenth, a connection takes no further calls: its client makes a
  // new one, and those under way go on. 0: never.
  absl::Duration max_connection_age;
  // Outlives the server; nullptr: nothing is encrypted. Unix sockets never are.
  const ServerTls* tls = nullptr;
};

class GrpcServer {
 public:
  // Listens and serves at once, with health NOT_SERVING. UNAVAILABLE when the port is taken.
  // `context` must outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(InferenceContext* context,
                                                           const GrpcServerOptions& options);
  // UNAVAILABLE when the port is taken already: asked before a model is loaded for minutes.
  static absl::Status CheckAddress(const GrpcServerOptions& options);
  virtual ~GrpcServer() = default;

  virtual int32_t port() const = 0;         // 0: a Unix socket
  virtual std::string address() const = 0;  // for clients, if --host is not a wildcard
  // What the health service answers for "" and "tessera.v1.Inference".
  virtual void SetServing(bool serving) = 0;
  // Refuses new calls, waits for the open ones until `deadline`, then cancels them.
  virtual void Shutdown(absl::Time deadline) = 0;
};

std::string GrpcVersion();

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_GRPC_SERVER_H_
