// Messages in and out of gRPC's raw buffers. The service parses requests itself, so that malformed
// bytes get a clear INVALID_ARGUMENT and are counted like every other call.
#ifndef TESSERA_SERVER_GRPC_MESSAGE_BUFFER_H_
#define TESSERA_SERVER_GRPC_MESSAGE_BUFFER_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// CANCELLED without a message: the client has reset the call before. RESOURCE_EXHAUSTED above
// `max_bytes`, INVALID_ARGUMENT for what is no such message; both with a google.rpc.BadRequest.
absl::Status ParseBuffer(const grpc::ByteBuffer& buffer, int64_t max_bytes,
                         google::protobuf::MessageLite* message);

template <typename Message>
absl::StatusOr<Message> ParseBuffer(const grpc::ByteBuffer& buffer, int64_t max_bytes) {
  Message message;
  absl::Status status = ParseBuffer(buffer, max_bytes, &message);
  if (!status.ok()) return status;
  return message;
}

grpc::ByteBuffer ToBuffer(const google::protobuf::MessageLite& message);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_MESSAGE_BUFFER_H_
