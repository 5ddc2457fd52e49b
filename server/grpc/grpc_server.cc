#include "server/grpc/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/node_address.h"
#include "parallel/cluster/quiet_libraries.h"
#include "server/access/server_tls.h"
#include "server/field_violations.h"
#include "server/grpc/answered_call.h"
#include "server/grpc/generation_reactors.h"
#include "server/grpc/message_buffer.h"
#include "server/grpc/status_mapping.h"
#include "server/inference_context.h"
#include "server/server_facts.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

using v1::Inference;

template <typename Base>
using RawGeneration = Inference::WithRawCallbackMethod_Generate<
    Inference::WithRawCallbackMethod_StreamGenerate<Base>>;
template <typename Base>
using RawText =
    Inference::WithRawCallbackMethod_Tokenize<Inference::WithRawCallbackMethod_Detokenize<Base>>;
template <typename Base>
using RawFacts =
    Inference::WithRawCallbackMethod_GetModelInfo<Inference::WithRawCallbackMethod_GetServerInfo<
        Inference::WithRawCallbackMethod_GetLoad<Inference::WithRawCallbackMethod_Abort<Base>>>>;
using RawService = RawGeneration<RawText<RawFacts<Inference::Service>>>;

class InferenceService final : public RawService {
 public:
  explicit InferenceService(InferenceContext* context) : context_(*context) {}

  using Call = grpc::CallbackServerContext;
  using Buffer = grpc::ByteBuffer;

  grpc::ServerUnaryReactor* Generate(Call* call, const Buffer* in, Buffer* out) override {
    return StartUnaryGeneration(&context_, call, *in, out);
  }

  grpc::ServerWriteReactor<Buffer>* StreamGenerate(Call* call, const Buffer* in) override {
    return StartStreamGeneration(&context_, call, *in);
  }

  grpc::ServerUnaryReactor* Tokenize(Call* call, const Buffer* in, Buffer* out) override {
    return AnswerBy<v1::TokenizeRequest>(
        {call, "Tokenize", Permission::kGenerate}, *in, out,
        [this](const v1::TokenizeRequest& request) -> absl::StatusOr<v1::TokenizeResponse> {
          auto ids = context_.builder.Tokenize(request);
          if (!ids.ok()) return ids.status();
          v1::TokenizeResponse response;
          response.mutable_token_ids()->Add(ids->begin(), ids->end());
          return response;
        });
  }

  grpc::ServerUnaryReactor* Detokenize(Call* call, const Buffer* in, Buffer* out) override {
    return AnswerBy<v1::DetokenizeRequest>(
        {call, "Detokenize", Permission::kGenerate}, *in, out,
        [this](const v1::DetokenizeRequest& request) -> absl::StatusOr<v1::DetokenizeResponse> {
          auto text = context_.builder.Detokenize(request);
          if (!text.ok()) return text.status();
          v1::DetokenizeResponse response;
          response.set_text(*std::move(text));
          return response;
        });
  }

  grpc::ServerUnaryReactor* GetModelInfo(Call* call, const Buffer* in, Buffer* out) override {
    return AnswerBy<v1::GetModelInfoRequest>(
        {call, "GetModelInfo", Permission::kKnown}, *in, out,
        [this](const v1::GetModelInfoRequest& request) -> absl::StatusOr<v1::GetModelInfoResponse> {
          const absl::Status known = context_.builder.CheckModelName(request.model());
          if (!known.ok()) return known;
          return ModelFacts(*context_.model);
        });
  }

  grpc::ServerUnaryReactor* GetServerInfo(Call* call, const Buffer* in, Buffer* out) override {
    return AnswerBy<v1::GetServerInfoRequest>(
        {call, "GetServerInfo", Permission::kObserve}, *in, out,
        [this](const v1::GetServerInfoRequest&) -> absl::StatusOr<v1::GetServerInfoResponse> {
          v1::GetServerInfoResponse response = ServerFacts(context_);
          response.set_grpc_version(grpc::Version());
          return response;
        });
  }

  grpc::ServerUnaryReactor* GetLoad(Call* call, const Buffer* in, Buffer* out) override {
    return AnswerBy<v1::GetLoadRequest>(
        {call, "GetLoad", Permission::kObserve}, *in, out,
        [this](const v1::GetLoadRequest&) -> absl::StatusOr<v1::GetLoadResponse> {
          return LoadFacts(context_);
        });
  }

  grpc::ServerUnaryReactor* Abort(Call* call, const Buffer* in, Buffer* out) override {
    return AnswerBy<v1::AbortRequest>(
        {call, "Abort", Permission::kAdmin}, *in, out,
        [this](const v1::AbortRequest& request) -> absl::StatusOr<v1::AbortResponse> {
          if (request.request_id().empty()) return FieldError("request_id", "must be set");
          const auto found = context_.active.Abort(request.request_id());
          if (found && found->engine_id) {
            context_.engine->Cancel(*found->engine_id, absl::AbortedError("aborted by request"));
          }
          v1::AbortResponse response;
          response.set_found(found.has_value());
          return response;
        });
  }

 private:
  struct Method {
    Call* call;
    std::string_view name;
    Permission permission;
  };
  // A call that `handler` answers: Request → StatusOr of the response.
  template <typename Request, typename Handler>
  grpc::ServerUnaryReactor* AnswerBy(const Method& method, const Buffer& in, Buffer* out,
                                     const Handler& handler) {
    return StartAnsweredCall({.context = &context_,
                              .call = method.call,
                              .method = method.name,
                              .permission = method.permission,
                              .request = &in,
                              .response = out},
                             [this, handler](const Buffer& buffer) -> absl::StatusOr<Buffer> {
                               ASSIGN_OR_RETURN(
                                   const Request request,
                                   ParseBuffer<Request>(buffer, context_.limits.max_message_bytes));
                               ASSIGN_OR_RETURN(const auto response, handler(request));
                               return ToBuffer(response);
                             });
  }

  InferenceContext& context_;
};

// Calls of what is not there.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* call) override {
    class Refusal final : public grpc::ServerGenericBidiReactor {
     public:
      explicit Refusal(const std::string& method) {
        Finish({grpc::StatusCode::UNIMPLEMENTED,
                absl::StrCat("there is no method ", method.substr(0, kMaxShown),
                             "; this server has ", Inference::service_full_name(),
                             ", grpc.health.v1.Health and, unless it is switched off, server "
                             "reflection, which lists the methods")});
      }
      void OnDone() override { delete this; }
    };
    return new Refusal(call->method());
  }

 private:
  static constexpr size_t kMaxShown = 200;
};

// Linking gRPC's reflection adds it to every server.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const std::unique_ptr<grpc::ServerBuilderPlugin>& plugin) {
      return plugin->name() == "proto_server_reflection";
    });
  }
};

void Configure(const InferenceContext& context, const GrpcServerOptions& options,
               grpc::ServerBuilder* builder) {
  constexpr int kKeepaliveMs = 60'000;
  constexpr int kKeepaliveTimeoutMs = 20'000;
  constexpr int kMinPingIntervalMs = 10'000;
  constexpr int kHandshakeTimeoutMs = 10'000;  // silent connections go
  constexpr int kMaxMetadataBytes = 8 << 10;
  // A backstop: beyond it gRPC drops streams and connections, whosever they are, instead of the
  // system ending the process.
  constexpr size_t kMaxHeldBytes = size_t{512} << 20;
  builder->SetResourceQuota(grpc::ResourceQuota("tessera").Resize(kMaxHeldBytes));
  // What is somewhat too large gets through to the service, which says so better and counts it.
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  builder->SetMaxReceiveMessageSize(
      static_cast<int>(std::min(kMost, 2 * context.limits.max_message_bytes)));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kMinPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  // Above the application's cap, so that the cap answers with a status instead of a queue.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              2 * context.limits.max_concurrent_requests);
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  if (options.max_connection_age > absl::ZeroDuration()) {
    // gRPC adds the jitter, and without a grace period leaves open calls alone.
    builder->AddChannelArgument(
        GRPC_ARG_MAX_CONNECTION_AGE_MS,
        static_cast<int>(std::min(kMost, absl::ToInt64Milliseconds(options.max_connection_age))));
  }
}

// New certificates count for new connections.
std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const GrpcServerOptions& options) {
  namespace experimental = grpc::experimental;
  constexpr unsigned kSecondsBetweenLooks = 1;
  if (options.tls == nullptr || IsUnixSocket(options.host)) {
    return grpc::InsecureServerCredentials();
  }
  const ServerTls& tls = *options.tls;
  experimental::TlsServerCredentialsOptions made(
      tls.asks_clients() ? std::make_shared<experimental::FileWatcherCertificateProvider>(
                               tls.identity_path(), tls.identity_path(), tls.authority_path(),
                               kSecondsBetweenLooks)
                         : std::make_shared<experimental::FileWatcherCertificateProvider>(
                               tls.identity_path(), tls.identity_path(), kSecondsBetweenLooks));
  made.watch_identity_key_cert_pairs();
  if (tls.asks_clients()) {
    made.watch_root_certs();
    made.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return experimental::TlsServerCredentials(made);
}

HostPort AddressOf(const GrpcServerOptions& options) {
  return MakeHostPort(options.host, options.port);
}

absl::Status CannotListen(const HostPort& address) {
  if (IsUnixSocket(address.host)) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on ", address.ToString(),
        "; another program may be listening there, the folder must be writable, and the path at "
        "most 107 bytes long (--host)"));
  }
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address.ToString(),
                   "; if another program uses the port choose a different --port (0 picks a "
                   "free one), otherwise check --host"));
}

class RunningServer final : public GrpcServer {
 public:
  explicit RunningServer(InferenceContext* context) : service_(context) {}
  ~RunningServer() override { Shutdown(MonotonicNow()); }

  absl::Status Listen(const InferenceContext& context, const GrpcServerOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    // Or not at all, as the linker likes.
    if (options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
    Configure(context, options, &builder);
    const HostPort address = AddressOf(options);
    builder.AddListeningPort(address.ToString(), CredentialsOf(options), &port_);
    builder.RegisterService(&service_);
    builder.RegisterCallbackGenericService(&unknown_methods_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return CannotListen(address);
    }
    if (IsUnixSocket(address.host)) port_ = 0;
    address_ = MakeHostPort(options.host, port_).ToString();
    SetServing(false);
    return absl::OkStatus();
  }

  int32_t port() const override { return port_; }
  std::string address() const override { return address_; }

  void SetServing(bool serving) override {
    auto* health = server_->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(Inference::service_full_name(), serving);
  }

  void Shutdown(absl::Time deadline) override {
    if (server_ == nullptr || std::exchange(stopped_, true)) return;
    server_->Shutdown(absl::ToChronoTime(WallTime(deadline)));
    server_->Wait();
  }

 private:
  InferenceService service_;
  UnknownMethods unknown_methods_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(InferenceContext* context,
                                                              const GrpcServerOptions& options) {
  SilenceLibraries();
  auto server = std::make_unique<RunningServer>(context);
  absl::Status status = server->Listen(*context, options);
  if (!status.ok()) return status;
  return server;
}

absl::Status GrpcServer::CheckAddress(const GrpcServerOptions& options) {
  const HostPort address = AddressOf(options);
  if (IsUnixSocket(address.host)) {
    return CanBindUnixSocket(address.host) ? absl::OkStatus() : CannotListen(address);
  }
  return options.port != 0 && IsTaken(address) ? CannotListen(address) : absl::OkStatus();
}

std::string GrpcVersion() { return grpc::Version(); }

}  // namespace tessera
