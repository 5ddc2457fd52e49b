// Server reflection, by which grpcurl and others read the methods from the server: the protocol's
// versions v1 and v1alpha, which differ in nothing but the name.
#ifndef TESSERA_SERVER_GRPC_REFLECTION_H_
#define TESSERA_SERVER_GRPC_REFLECTION_H_

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "server/grpc/received_call.h"

namespace tessera {

inline constexpr std::array<std::string_view, 2> kReflectionServices = {
    "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"};

// Answers questions about what is linked into this program until the client has no more.
// `services`: full names of what the server has; outlives the call.
grpc::ServerGenericBidiReactor* StartReflection(const GrpcCall& call,
                                                const std::vector<std::string>& services);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_REFLECTION_H_
