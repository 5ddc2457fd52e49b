#include "server/grpc/client_channel.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "parallel/cluster/node_address.h"

namespace tessera {
namespace {

constexpr absl::Duration kConnectTimeout = absl::Seconds(10);

// False at the first refusal, or when nothing happens for too long.
bool Connect(grpc::Channel* channel) {
  const absl::Time deadline = MonotonicNow() + kConnectTimeout;
  while (true) {
    const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) return false;
    if (!channel->WaitForStateChange(state, absl::ToChronoTime(WallTime(deadline)))) return false;
  }
}

// The proxy's variable that gRPC heeds, if any.
std::string ProxyVariable() {
  for (const char* name : {"grpc_proxy", "https_proxy", "http_proxy"}) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets any
    if (value != nullptr && *value != 0) return absl::StrCat(name, "=", value);
  }
  return "";
}

bool IsOnThisMachine(const std::string& address) {
  if (IsUnixSocket(address)) return true;
  const auto parsed = ParseHostPort(address);
  return parsed.ok() && IsLoopback(parsed->host);
}

absl::Status NobodyAnswers(const std::string& address, bool through_proxy) {
  const std::string proxy = through_proxy ? ProxyVariable() : "";
  return absl::UnavailableError(absl::StrCat(
      "no server answers at ", address,
      proxy.empty() ? ""
                    : absl::StrCat(" through the proxy of ", proxy, " (no_proxy excepts hosts)"),
      "; start one with \"tessera serve\" or check the address"));
}

}  // namespace

absl::Status CheckServerAddress(const std::string& address) {
  return IsUnixSocket(address) ? absl::OkStatus() : ParseHostPort(address).status();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenClientChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Every layer of a channel is code that a call runs through, cold after a step of the model.
  // Of the optional ones only deadlines are used here.
  arguments.SetInt(GRPC_ARG_MINIMAL_STACK, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_CHANNELZ, 0);
  const bool through_proxy = !IsOnThisMachine(address);
  if (!through_proxy) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (Connect(channel.get())) return channel;
  return NobodyAnswers(address, through_proxy);
}

}  // namespace tessera
