#include "server/grpc/client_channel.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "parallel/cluster/node_address.h"
#include "server/access/tls_diagnosis.h"
#include "server/access/tls_identity.h"

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

bool UsesTls(const ServerTarget& target) {
  if (IsUnixSocket(target.address)) return false;
  return target.uses_tls || !target.authority.empty() || !target.certificate.empty() ||
         !target.key.empty();
}

absl::StatusOr<TlsIdentity> IdentityOf(const ServerTarget& target) {
  if (!UsesTls(target)) return TlsIdentity{};
  return ReadTlsIdentity({.certificate = {"--cert", target.certificate},
                          .key = {"--key", target.key},
                          .authority = {"--ca", target.authority}},
                         absl::Now());
}

std::shared_ptr<grpc::ChannelCredentials> CredentialsOf(const TlsIdentity& identity) {
  return grpc::SslCredentials({.pem_root_certs = identity.authority,
                               .pem_private_key = identity.key,
                               .pem_cert_chain = identity.certificate});
}

// Something answers there, but not as it was spoken to.
std::string TlsTrouble(const ServerTarget& target, TlsIdentity identity) {
  const auto parsed = ParseHostPort(target.address);
  if (IsUnixSocket(target.address) || !parsed.ok()) return "";
  return ExplainTlsFailure({.host = parsed->host,
                            .port = parsed->port,
                            .used_tls = UsesTls(target),
                            .identity = std::move(identity)});
}

}  // namespace

absl::Status CheckServerAddress(const std::string& address) {
  return IsUnixSocket(address) ? absl::OkStatus() : ParseHostPort(address).status();
}

absl::StatusOr<std::string> AuthorizationFor(const ServerTarget& target) {
  constexpr int64_t kMaxKeyBytes = 4096;
  if (target.api_key_file.empty()) return "";
  absl::StatusOr<std::string> text = ReadTextFile(target.api_key_file, kMaxKeyBytes);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        absl::StrCat("--api-key-file: ", text.status().message()));
  }
  const std::string key(absl::StripAsciiWhitespace(*text));
  const bool is_visible =
      std::all_of(key.begin(), key.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
  if (key.empty() || !is_visible) {
    return absl::InvalidArgumentError(
        absl::StrCat("--api-key-file: ", target.api_key_file, ": holds no API key"));
  }
  return absl::StrCat("Bearer ", key);
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> OpenClientChannel(const ServerTarget& target) {
  ASSIGN_OR_RETURN(TlsIdentity identity, IdentityOf(target));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Every layer of a channel is code that a call runs through, cold after a step of the model.
  // Of the optional ones only deadlines are used here.
  arguments.SetInt(GRPC_ARG_MINIMAL_STACK, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_DEADLINE_CHECKS, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_CHANNELZ, 0);
  const bool through_proxy = !IsOnThisMachine(target.address);
  if (!through_proxy) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel(
      target.address,
      UsesTls(target) ? CredentialsOf(identity) : grpc::InsecureChannelCredentials(), arguments);
  if (Connect(channel.get())) return channel;
  const std::string why = TlsTrouble(target, std::move(identity));
  if (why.empty()) return NobodyAnswers(target.address, through_proxy);
  return absl::UnavailableError(absl::StrCat(target.address, ": ", why));
}

}  // namespace tessera
