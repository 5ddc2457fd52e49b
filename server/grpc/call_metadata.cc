#include "server/grpc/call_metadata.h"

#include <grpcpp/server_context.h>

namespace tessera {

std::string_view MetadataOf(const grpc::CallbackServerContext& call, const char* key) {
  const auto found = call.client_metadata().find(key);
  if (found == call.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

Credentials CredentialsOf(const grpc::CallbackServerContext& call) {
  return {.authorization = MetadataOf(call, "authorization"),
          .api_key = MetadataOf(call, "x-api-key")};
}

}  // namespace tessera
