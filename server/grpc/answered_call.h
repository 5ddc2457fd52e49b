// Unary calls that the service answers itself, without the engine.
#ifndef TESSERA_SERVER_GRPC_ANSWERED_CALL_H_
#define TESSERA_SERVER_GRPC_ANSWERED_CALL_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/inference_context.h"

namespace tessera {

struct AnsweredCall {
  InferenceContext* context = nullptr;
  grpc::CallbackServerContext* call = nullptr;
  std::string_view method;                     // as it is counted; outlives the call
  Permission permission = Permission::kAdmin;  // that the caller needs
  const grpc::ByteBuffer* request = nullptr;
  grpc::ByteBuffer* response = nullptr;
};

// The message that answers a request, or why there is none. May throw.
using Answer = absl::AnyInvocable<absl::StatusOr<grpc::ByteBuffer>(const grpc::ByteBuffer&)>;

// Refuses who may not call; answers at once or, when the request is large, on one of the context's
// workers. What `answer` throws ends the call, which is counted like every other one.
grpc::ServerUnaryReactor* StartAnsweredCall(const AnsweredCall& call, Answer answer);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_ANSWERED_CALL_H_
