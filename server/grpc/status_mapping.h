// absl::Status as gRPC sends it: code, message, typed details, advice when to retry.
#ifndef TESSERA_SERVER_GRPC_STATUS_MAPPING_H_
#define TESSERA_SERVER_GRPC_STATUS_MAPPING_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tessera {

// A google.rpc.BadRequest payload travels in the status details; RESOURCE_EXHAUSTED without one
// gets a google.rpc.RetryInfo there and the trailer grpc-retry-pushback-ms. To be called at most
// once per call, before Finish.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::CallbackServerContext* context);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_STATUS_MAPPING_H_
