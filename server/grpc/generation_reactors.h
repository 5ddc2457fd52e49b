// The two ways a generation answers: one message, or a stream of deltas.
#ifndef TESSERA_SERVER_GRPC_GENERATION_REACTORS_H_
#define TESSERA_SERVER_GRPC_GENERATION_REACTORS_H_

#include "server/grpc/received_call.h"

namespace tessera {

// Both read the request, start the generation and return the call's reactor, which gRPC holds.
grpc::ServerGenericBidiReactor* StartUnaryGeneration(const GrpcCall& call);
grpc::ServerGenericBidiReactor* StartStreamGeneration(const GrpcCall& call);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_GENERATION_REACTORS_H_
