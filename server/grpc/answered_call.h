// Unary calls that the service answers itself, without the engine.
#ifndef TESSERA_SERVER_GRPC_ANSWERED_CALL_H_
#define TESSERA_SERVER_GRPC_ANSWERED_CALL_H_

#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "server/grpc/received_call.h"

namespace tessera {

struct AnsweredMethod {
  std::string_view name;                       // as it is counted; outlives the call
  Permission permission = Permission::kAdmin;  // that the caller needs
};

// The message that answers a request, or why there is none. May throw.
using Answer = absl::AnyInvocable<absl::StatusOr<grpc::ByteBuffer>(const grpc::ByteBuffer&)>;

// Refuses who may not call; answers at once or, when the request is large, on one of the context's
// workers. What `answer` throws ends the call, which is counted like every other one.
grpc::ServerGenericBidiReactor* StartAnsweredCall(const GrpcCall& call,
                                                  const AnsweredMethod& method, Answer answer);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_ANSWERED_CALL_H_
