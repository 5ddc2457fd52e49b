// What a call's metadata says besides its message.
#ifndef TESSERA_SERVER_GRPC_CALL_METADATA_H_
#define TESSERA_SERVER_GRPC_CALL_METADATA_H_

#include <grpcpp/support/server_callback.h>

#include <string_view>

#include "server/access/access_control.h"

namespace tessera {

// The value of a key, empty when there is none. Views into the call.
std::string_view MetadataOf(const grpc::CallbackServerContext& call, const char* key);
Credentials CredentialsOf(const grpc::CallbackServerContext& call);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_CALL_METADATA_H_
