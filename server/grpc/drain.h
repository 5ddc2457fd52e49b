// The orderly end of a server.
#ifndef TESSERA_SERVER_GRPC_DRAIN_H_
#define TESSERA_SERVER_GRPC_DRAIN_H_

#include "absl/time/time.h"
#include "server/grpc/grpc_server.h"
#include "server/inference_context.h"

namespace tessera {

struct DrainOptions {
  absl::Duration delay = absl::ZeroDuration();  // for load balancers to notice
  absl::Duration timeout = absl::Seconds(30);   // for the running requests to finish
};

// Health turns NOT_SERVING; after the delay new requests are refused, running ones continue until
// the timeout, and what is left then ends UNAVAILABLE. Returns when the server has stopped. Once
// `context->gate` is in a hurry, nothing is waited for.
void DrainServer(const DrainOptions& options, InferenceContext* context, GrpcServer* server);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_DRAIN_H_
