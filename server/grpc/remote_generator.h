// Asking a running server: a TextGenerator over gRPC.
#ifndef TESSERA_SERVER_GRPC_REMOTE_GENERATOR_H_
#define TESSERA_SERVER_GRPC_REMOTE_GENERATOR_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/grpc/client_channel.h"
#include "server/text_generator.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

struct RemoteOptions {
  ServerTarget server;
  absl::Duration timeout = absl::InfiniteDuration();  // of one request
};
// UNAVAILABLE when nobody answers there.
absl::StatusOr<std::unique_ptr<TextGenerator>> MakeRemoteGenerator(const RemoteOptions& options);

// What the server serves.
absl::StatusOr<v1::GetModelInfoResponse> AskModelInfo(const ServerTarget& server);
// What it is, and how busy. With API keys these want the scope metrics or admin.
absl::StatusOr<v1::GetServerInfoResponse> AskServerInfo(const ServerTarget& server,
                                                        absl::Duration timeout);
absl::StatusOr<v1::GetLoadResponse> AskLoad(const ServerTarget& server, absl::Duration timeout);

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_REMOTE_GENERATOR_H_
