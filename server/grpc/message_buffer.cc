#include "server/grpc/message_buffer.h"

#include "absl/strings/str_cat.h"
#include "server/field_violations.h"

namespace tessera {

absl::Status ParseBuffer(const grpc::ByteBuffer& buffer, int64_t max_bytes,
                         google::protobuf::MessageLite* message) {
  if (!buffer.Valid()) return absl::CancelledError("the call ended before its message had come");
  if (static_cast<int64_t>(buffer.Length()) > max_bytes) {
    return FieldError("request",
                      absl::StrCat("has ", buffer.Length(), " bytes, at most ", max_bytes,
                                   " are allowed: send less, or raise serve --max-message-size"),
                      absl::StatusCode::kResourceExhausted);
  }
  grpc::Slice slice;
  grpc::Status status = buffer.TrySingleSlice(&slice);
  if (!status.ok()) status = buffer.DumpToSingleSlice(&slice);
  if (status.ok() && message->ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return absl::OkStatus();
  }
  return FieldError("request", absl::StrCat("is not a valid ", message->GetTypeName(),
                                            "; all strings must be UTF-8"));
}

grpc::ByteBuffer ToBuffer(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace tessera
