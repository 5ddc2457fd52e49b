#include "server/grpc/grpc_server.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/node_address.h"
#include "parallel/cluster/quiet_libraries.h"
#include "server/access/server_tls.h"
#include "server/field_violations.h"
#include "server/grpc/answered_call.h"
#include "server/grpc/generation_reactors.h"
#include "server/grpc/health.h"
#include "server/grpc/message_buffer.h"
#include "server/grpc/message_intake.h"
#include "server/grpc/reflection.h"
#include "server/inference_context.h"
#include "server/server_facts.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

using v1::Inference;

// The methods of tessera.v1.Inference that are answered without the engine.
class Answers {
 public:
  explicit Answers(InferenceContext* context) : context_(*context) {}

  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request) const {
    ASSIGN_OR_RETURN(const auto ids, context_.builder.Tokenize(request));
    v1::TokenizeResponse response;
    response.mutable_token_ids()->Add(ids.begin(), ids.end());
    return response;
  }

  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request) const {
    v1::DetokenizeResponse response;
    ASSIGN_OR_RETURN(*response.mutable_text(), context_.builder.Detokenize(request));
    return response;
  }

  absl::StatusOr<v1::GetModelInfoResponse> GetModelInfo(
      const v1::GetModelInfoRequest& request) const {
    RETURN_IF_ERROR(context_.builder.CheckModelName(request.model()));
    return ModelFacts(*context_.model);
  }

  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const v1::GetServerInfoRequest&) const {
    v1::GetServerInfoResponse response = ServerFacts(context_);
    response.set_grpc_version(grpc::Version());
    return response;
  }

  absl::StatusOr<v1::GetLoadResponse> GetLoad(const v1::GetLoadRequest&) const {
    return LoadFacts(context_);
  }

  absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest& request) const {
    if (request.request_id().empty()) return FieldError("request_id", "must be set");
    const auto found = context_.active.Abort(request.request_id());
    if (found && found->engine_id) {
      context_.engine->Cancel(*found->engine_id, absl::AbortedError("aborted by request"));
    }
    v1::AbortResponse response;
    response.set_found(found.has_value());
    return response;
  }

 private:
  InferenceContext& context_;
};

using Reactor = grpc::ServerGenericBidiReactor;

// All calls, from their headers on: none is registered with gRPC by its name, since it would read
// the message of such a call before anybody could say whether it may.
class Methods final : public grpc::CallbackGenericService {
 public:
  struct Parts {
    InferenceContext* context = nullptr;
    MessageIntake* intake = nullptr;
    Health* health = nullptr;
    bool reflection = true;
  };
  explicit Methods(const Parts& parts)
      : context_(*parts.context), intake_(*parts.intake), answers_(parts.context) {
    services_ = {Inference::service_full_name(), std::string(Health::kService)};
    AddInference();
    AddHealth(parts.health);
    if (parts.reflection) AddReflection();
  }

  Reactor* CreateReactor(grpc::GenericCallbackServerContext* call) override {
    const auto method = methods_.find(call->method());
    if (method == methods_.end()) return new Refusal(call->method());
    return method->second({.context = &context_, .intake = &intake_, .call = call});
  }

 private:
  using Start = std::function<Reactor*(const GrpcCall&)>;

  class Refusal final : public Reactor {
   public:
    explicit Refusal(const std::string& method) {
      constexpr size_t kMaxShown = 200;
      Finish({grpc::StatusCode::UNIMPLEMENTED,
              absl::StrCat("there is no method ", method.substr(0, kMaxShown), "; this server has ",
                           Inference::service_full_name(),
                           ", grpc.health.v1.Health and, unless it is switched off, server "
                           "reflection, which lists the methods")});
    }
    void OnDone() override { delete this; }
  };

  void Add(std::string_view service, std::string_view method, Start start) {
    methods_.emplace(absl::StrCat("/", std::string(service), "/", std::string(method)),
                     std::move(start));
  }

  void AddInference() {
    Add(Inference::service_full_name(), "Generate", StartUnaryGeneration);
    Add(Inference::service_full_name(), "StreamGenerate", StartStreamGeneration);
    AddAnswer("Tokenize", Permission::kGenerate, &Answers::Tokenize);
    AddAnswer("Detokenize", Permission::kGenerate, &Answers::Detokenize);
    AddAnswer("GetModelInfo", Permission::kKnown, &Answers::GetModelInfo);
    AddAnswer("GetServerInfo", Permission::kObserve, &Answers::GetServerInfo);
    AddAnswer("GetLoad", Permission::kObserve, &Answers::GetLoad);
    AddAnswer("Abort", Permission::kAdmin, &Answers::Abort);
  }

  template <typename Request, typename Response>
  void AddAnswer(std::string_view name, Permission permission,
                 absl::StatusOr<Response> (Answers::*answer)(const Request&) const) {
    Add(Inference::service_full_name(), name,
        [this, method = AnsweredMethod{name, permission}, answer](const GrpcCall& call) {
          return StartAnsweredCall(
              call, method,
              [this, answer](const grpc::ByteBuffer& buffer) -> absl::StatusOr<grpc::ByteBuffer> {
                ASSIGN_OR_RETURN(const Request request,
                                 ParseBuffer<Request>(buffer, context_.limits.max_message_bytes));
                ASSIGN_OR_RETURN(const Response response, (answers_.*answer)(request));
                return ToBuffer(response);
              });
        });
  }

  void AddHealth(Health* health) {
    Add(Health::kService, "Check", [health](const GrpcCall& call) { return health->Check(call); });
    Add(Health::kService, "Watch", [health](const GrpcCall& call) { return health->Watch(call); });
  }

  void AddReflection() {
    for (const std::string_view service : kReflectionServices) {
      services_.emplace_back(service);
      Add(service, "ServerReflectionInfo",
          [this](const GrpcCall& call) { return StartReflection(call, services_); });
    }
  }

  InferenceContext& context_;
  MessageIntake& intake_;
  const Answers answers_;
  std::vector<std::string> services_;
  absl::flat_hash_map<std::string, Start> methods_;
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
  RunningServer(InferenceContext* context, const GrpcServerOptions& options)
      : intake_(&context->gate, {.patience = context->limits.stream_stall_timeout}),
        methods_({.context = context,
                  .intake = &intake_,
                  .health = &health_,
                  .reflection = options.reflection}) {}
  ~RunningServer() override { Shutdown(MonotonicNow()); }

  absl::Status Listen(const InferenceContext& context, const GrpcServerOptions& options) {
    grpc::ServerBuilder builder;
    Configure(context, options, &builder);
    const HostPort address = AddressOf(options);
    builder.AddListeningPort(address.ToString(), CredentialsOf(options), &port_);
    builder.RegisterCallbackGenericService(&methods_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return CannotListen(address);
    }
    if (IsUnixSocket(address.host)) port_ = 0;
    address_ = MakeHostPort(options.host, port_).ToString();
    return absl::OkStatus();
  }

  int32_t port() const override { return port_; }
  std::string address() const override { return address_; }

  void SetServing(bool serving) override { health_.Set(serving); }

  void Shutdown(absl::Time deadline) override {
    if (server_ == nullptr || std::exchange(stopped_, true)) return;
    server_->Shutdown(absl::ToChronoTime(WallTime(deadline)));
    server_->Wait();
  }

 private:
  MessageIntake intake_;
  Health health_;
  Methods methods_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string address_;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(InferenceContext* context,
                                                              const GrpcServerOptions& options) {
  SilenceLibraries();
  auto server = std::make_unique<RunningServer>(context, options);
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
