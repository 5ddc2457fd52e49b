// The two ways a generation answers: one message, or a stream of deltas.
#ifndef TESSERA_SERVER_GRPC_GENERATION_REACTORS_H_
#define TESSERA_SERVER_GRPC_GENERATION_REACTORS_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/inference_context.h"

namespace tessera {

// Both start the generation and return the call's reactor, which deletes itself.
grpc::ServerUnaryReactor* StartUnaryGeneration(InferenceContext* context,
                                               grpc::CallbackServerContext* call,
                                               const grpc::ByteBuffer& request,
                                               grpc::ByteBuffer* response);

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStreamGeneration(InferenceContext* context,
                                                                  grpc::CallbackServerContext* call,
                                                                  const grpc::ByteBuffer& request);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_GENERATION_REACTORS_H_
