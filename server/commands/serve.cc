// tessera serve: load, listen, drain.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/planning/expert_plan.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/node_address.h"
#include "server/access/access_control.h"
#include "server/access/server_tls.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/server_state.h"
#include "server/grpc/accept_check.h"
#include "server/grpc/drain.h"
#include "server/grpc/grpc_server.h"
#include "server/heap_trimmer.h"
#include "server/http/http_server.h"
#include "server/http/openai/api.h"
#include "server/http/probe_pages.h"
#include "server/inference_context.h"
#include "server/logging.h"
#include "server/metrics/recorder.h"
#include "server/model_runtime.h"
#include "server/signals.h"
#include "server/version.h"

namespace tessera {
namespace {

struct ServeFlags {
  RuntimeOptions runtime;
  GrpcServerOptions grpc;
  HttpServerOptions http{.option = "--http-port", .port = -1, .max_connections = 4096};
  std::vector<std::string> cors_origins;
  bool page = true;
  HttpServerOptions metrics{.option = "--metrics-port", .port = 9090, .max_connections = 128};
  std::string metrics_prefix = "tessera";
  TlsFiles tls{.certificate = {"--tls-cert", ""},
               .key = {"--tls-key", ""},
               .authority = {"--tls-client-ca", ""}};
  bool metrics_tls = false;
  std::string api_keys;
  bool insecure = false;
  std::string ready_file;
  std::string expert_stats_file;
  ServiceLimits limits;
  DrainOptions drain;
  std::string log_level = "info";
  std::string log_format = "text";
};

constexpr int32_t kHttpPort = 8000;
// For connections that are still open when all calls have ended.
constexpr absl::Duration kHttpGoodbye = absl::Milliseconds(100);

// Every connection is an open file, and gRPC stops listening for good once there is none left.
void RaiseFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) LogWarning("cannot raise the limit of open files");
}

// Appears whole: written beside and renamed.
absl::Status WriteWhole(const char* option, const std::string& path, const std::string& text) {
  const std::string partial = path + ".part";
  std::ofstream file(partial);
  file << text;
  file.close();
  if (file && std::rename(partial.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(option, ": cannot write ", path));
}

absl::Status CheckFolderOf(const char* option, const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  const std::string folder = std::filesystem::absolute(path).parent_path();
  if (access(folder.c_str(), W_OK) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(option, ": cannot write into ", folder, ": ",
                                             std::generic_category().message(errno)));
}

// A file of that name, left by an earlier run, would say that this one serves.
absl::Status RemoveReadyFile(const std::string& path) {
  if (path.empty() || std::remove(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("--ready-file: cannot remove ", path, ": ",
                                             std::generic_category().message(errno)));
}

struct Ports {
  int32_t grpc;
  int32_t http;
  int32_t metrics;
};

absl::Status WriteReadyFile(const std::string& path, const Ports& ports) {
  if (path.empty()) return absl::OkStatus();
  return WriteWhole(
      "--ready-file", path,
      absl::StrCat("{\"grpc_port\": ", ports.grpc, ", \"http_port\": ", ports.http,
                   ", \"metrics_port\": ", ports.metrics, ", \"pid\": ", getpid(), "}\n"));
}

// Where the pages and the HTTP API are when gRPC calls come through a Unix socket.
std::string HttpHost(const std::string& host) { return IsUnixSocket(host) ? "127.0.0.1" : host; }

// The router's choices as the ranks exchanged them last.
class LatestExpertLoads {
 public:
  void Update(std::shared_ptr<const ExpertLoads> loads) {
    if (loads == nullptr) return;
    absl::MutexLock lock(&mutex_);
    loads_ = std::move(loads);
  }
  absl::Status Write(const std::string& path) const {
    if (path.empty()) return absl::OkStatus();
    absl::MutexLock lock(&mutex_);
    if (loads_ == nullptr) {
      return absl::NotFoundError(
          "--expert-stats-file: no expert loads were exchanged: the model is "
          "dense or the server ran too few steps");
    }
    return WriteWhole("--expert-stats-file", path, FormatExpertCounts(*loads_));
  }

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const ExpertLoads> loads_ ABSL_GUARDED_BY(mutex_);
};

ProbePages PagesOf(const ServeFlags& flags, MetricsRecorder* metrics, ServerState* state) {
  return {
      .metrics = [metrics] { return metrics->Render(); },
      .healthy = [state,
                  timeout = flags.runtime.engine.step_timeout] { return state->Healthy(timeout); },
      .ready = [state] { return state->Ready(); }};
}

std::map<std::string, double> LimitsOf(const InferenceContext& context) {
  const SchedulerOptions& scheduler = context.engine_options.scheduler;
  return {{"max-concurrent-requests", context.limits.max_concurrent_requests},
          {"max-message-size", static_cast<double>(context.limits.max_message_bytes)},
          {"max-stream-buffer", static_cast<double>(context.limits.max_stream_buffer_bytes)},
          {"max-queued-requests", scheduler.max_queued_requests},
          {"max-queued-tokens", static_cast<double>(scheduler.max_queued_tokens)},
          {"max-num-seqs", scheduler.max_num_seqs},
          {"max-num-batched-tokens", scheduler.max_num_batched_tokens},
          {"max-model-len", context.model->max_model_len}};
}

// The beginning of a name that Prometheus allows.
bool IsMetricsPrefix(const std::string& prefix) {
  return !prefix.empty() && absl::ascii_isalpha(static_cast<unsigned char>(prefix[0])) &&
         std::all_of(prefix.begin(), prefix.end(),
                     [](unsigned char c) { return absl::ascii_isalnum(c) || c == '_'; });
}

// nullptr without files: nothing is encrypted.
absl::StatusOr<std::shared_ptr<ServerTls>> StartTls(const TlsFiles& files,
                                                    MetricsRecorder* metrics) {
  if (files.empty()) return nullptr;
  ASSIGN_OR_RETURN(std::shared_ptr<ServerTls> tls, ServerTls::Start(files));
  metrics->SetCertificateExpiry([raw = tls.get()] { return raw->identity()->expiry; });
  return tls;
}

bool IsForThisMachine(const ServeFlags& flags) {
  return IsLoopback(MakeHostPort(flags.grpc.host, 0).host);
}

// nullptr without keys: everybody may do everything.
absl::StatusOr<std::shared_ptr<AccessControl>> StartAccessControl(const ServeFlags& flags) {
  if (flags.api_keys.empty()) return nullptr;
  if (flags.tls.empty() && !IsForThisMachine(flags)) {
    LogWarning(
        "API keys come over the network as they are: without --tls-cert others can read them");
  }
  return AccessControl::Start(flags.api_keys);
}

std::vector<TenantFacts> FactsOf(const std::vector<std::shared_ptr<const Tenant>>& tenants) {
  std::vector<TenantFacts> all;
  for (const auto& tenant : tenants) {
    const TenantCounts counts = tenant->counts();
    all.push_back({.name = tenant->name(),
                   .open = counts.open,
                   .requests = counts.requests,
                   .prompt_tokens = counts.prompt_tokens,
                   .generation_tokens = counts.generation_tokens});
    for (size_t i = 0; i < counts.refused.size(); ++i) {
      all.back().refused[kTenantLimitNames[i]] = counts.refused[i];
    }
  }
  return all;
}

// Nobody opens a server to a network without having said so.
absl::Status CheckExposure(const ServeFlags& flags) {
  if (flags.insecure || !flags.tls.empty() || !flags.api_keys.empty()) return absl::OkStatus();
  if (IsForThisMachine(flags)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--host: on ", flags.grpc.host,
      " everybody in its networks could use this server; give it "
      "--api-keys (\"tessera keys\" makes them), --tls-cert and --tls-key, or both, or say "
      "--insecure where a proxy or a network policy keeps others away"));
}

absl::Status Serve(ServeFlags flags) {
  MetricsRecorder metrics({.model_name = ServedName(flags.runtime),
                           .prefix = flags.metrics_prefix,
                           .log_lines_dropped = &LogLinesDropped});
  ServerState state;
  LatestExpertLoads expert_loads;
  const HeapTrimmer heap_trimmer;
  metrics.SetReadiness([&state] { return state.UnreadyReason(); });
  const SignalWatcher signals([&state](int count) { state.OnSignal(count); },
                              [&state] { state.OnHangup(); });
  RETURN_IF_ERROR(RemoveReadyFile(flags.ready_file));
  LogInfo(absl::StrCat("tessera ", std::string(kVersion), ", gRPC ", GrpcVersion()));
  ASSIGN_OR_RETURN(const std::shared_ptr<ServerTls> tls, StartTls(flags.tls, &metrics));
  flags.grpc.tls = flags.http.tls = tls.get();
  if (flags.metrics_tls) flags.metrics.tls = tls.get();
  ASSIGN_OR_RETURN(const std::shared_ptr<AccessControl> access, StartAccessControl(flags));
  if (access != nullptr) metrics.SetTenants([access] { return FactsOf(access->tenants()); });
  state.SetReload([tls, access] {
    if (tls != nullptr) tls->ReadNow();
    if (access != nullptr) access->ReadNow();
  });
  ASSIGN_OR_RETURN(
      const std::unique_ptr<HttpServer> probes,
      HttpServer::Start(flags.metrics, ProbeHandler(PagesOf(flags, &metrics, &state))));
  ApiHandler api(
      {.cors_origins = flags.cors_origins,
       .healthy = [&state,
                   timeout = flags.runtime.engine.step_timeout] { return state.Healthy(timeout); },
       .metrics = [&metrics] { return metrics.Render(); },
       .page = flags.page});
  flags.http.refuse_head = [&api](const HttpRequest& head) { return api.RefuseHead(head); };
  ASSIGN_OR_RETURN(
      const std::unique_ptr<HttpServer> http,
      HttpServer::Start(flags.http, [&api](const std::shared_ptr<HttpExchange>& exchange) {
        api.Handle(exchange);
      }));
  // Loading takes minutes: what would fail after it is tried before.
  RETURN_IF_ERROR(GrpcServer::CheckAddress(flags.grpc));
  RETURN_IF_ERROR(CheckFolderOf("--ready-file", flags.ready_file));
  RETURN_IF_ERROR(CheckFolderOf("--expert-stats-file", flags.expert_stats_file));
  RuntimeOptions options = flags.runtime;
  // An idle engine asks nothing of the other nodes and would not notice.
  options.head.on_failure = [&state](const absl::Status& why) { state.OnEngineDead(why); };
  options.head.on_stop_asked = [&state] { state.OnSignal(1); };
  const LoadProgress log = LogLoadProgress(flags.runtime.engine.model.model_dir);
  ASSIGN_OR_RETURN(
      const std::unique_ptr<ModelRuntime> runtime,
      ModelRuntime::Load(
          options,
          [&](double ratio) {
            metrics.SetWeightsLoaded(ratio);
            log(ratio);
          },
          {.on_step =
               [&](const StepEvent& step) {
                 metrics.ObserveStep(step);
                 expert_loads.Update(step.expert_loads);
               },
           .on_dead = [&state](const absl::Status& status) { state.OnEngineDead(status); }}));
  metrics.SetWeightsLoaded(1);
  InferenceContext context(&runtime->model(), &runtime->engine(), &metrics, runtime->options(),
                           flags.limits);
  context.access = access.get();
  ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> server,
                   GrpcServer::Start(&context, flags.grpc));
  metrics.Attach({.engine = &runtime->engine(),
                  .active_requests = [&context] { return context.active.size(); },
                  .large_requests_queued = [&context] { return context.workers.num_queued(); },
                  .block_size = runtime->options().scheduler.block_size,
                  .group = runtime->group(),
                  .limits = LimitsOf(context)});
  const auto accept_check =
      std::make_shared<AcceptCheck>(flags.grpc.host, server->port(),
                                    /*is_encrypted=*/flags.grpc.tls != nullptr);
  state.Serve(&context, [accept_check] { return accept_check->Check(); });
  server->SetServing(true);
  api.Serve(&context);
  absl::Status status = WriteReadyFile(
      flags.ready_file, {.grpc = server->port(), .http = http->port(), .metrics = probes->port()});
  LogInfo(absl::StrCat("serving \"", runtime->model().name, "\" (context ",
                       runtime->model().max_model_len, " tokens) by gRPC on ", server->address(),
                       ", by HTTP on ", tls == nullptr ? "http://" : "https://", http->address(),
                       ", metrics on ", probes->address()));
  if (status.ok()) status = state.WaitForStop();
  if (const absl::Status gone = RemoveReadyFile(flags.ready_file); !gone.ok()) {
    LogWarning(std::string(gone.message()));
  }
  LogInfo(absl::StrCat("stopping: ", context.active.size(), " requests are open"));
  DrainServer(flags.drain, &context, server.get());
  api.Serve(nullptr);
  http->Shutdown(kHttpGoodbye);
  // A group that fails while it drains has not ended in order.
  if (status.ok()) status = state.death();
  if (status.ok() && !runtime->engine().stats().alive) {
    status = absl::UnavailableError("the engine has failed");
  }
  LogInfo("stopped");
  metrics.Attach({});
  state.Serve(nullptr, {});
  state.SetReload({});
  const absl::Status written = expert_loads.Write(flags.expert_stats_file);
  if (!written.ok()) LogWarning(std::string(written.message()));
  if (!status.ok()) FailAtOnce("serve", status);  // a supervisor waits to start the group again
  return absl::OkStatus();
}

void AddServeOptions(OptionTable* table, ServeFlags* flags) {
  constexpr int64_t kMaxPort = 65535;
  constexpr int64_t kMaxMessage = int64_t{1} << 30;
  table->Section("Server");
  table->Text(
      "host", &flags->grpc.host,
      "Address to listen on, of IPv4 or IPv6 (:: for all of both), a host name, or unix:PATH "
      "for a Unix domain socket; with that --http-port and --metrics-port are on 127.0.0.1.");
  table->Integer("port", &flags->grpc.port, {0, kMaxPort}, "gRPC port; 0: a free one.");
  table->Integer("http-port", &flags->http.port, {-1, kMaxPort},
                 "Port of the OpenAI-compatible HTTP API; 0: a free one; -1: 8000, or a free one "
                 "where --port is 0.");
  table->Text("http-socket", &flags->http.unix_path,
              "Unix socket for the HTTP API, instead of --http-port.");
  table->List("http-cors-origin", &flags->cors_origins,
              "Origin whose pages may use the HTTP API from a browser; *: any.");
  table->Flag("page", &flags->page, "A page to talk to the model, at / of the HTTP API.");
  table->Integer("max-http-connections", &flags->http.max_connections, {1, 1 << 20},
                 "Open connections of the HTTP API; one more ends the longest silent one.");
  table->Integer("metrics-port", &flags->metrics.port, {0, kMaxPort},
                 "HTTP port of /metrics, /healthz and /readyz; 0: a free one.");
  table->Text("metrics-prefix", &flags->metrics_prefix,
              "What the names of metrics begin with; \"vllm\" gives vLLM's names, colon included.");
  table->Text("metrics-socket", &flags->metrics.unix_path,
              "Unix socket for these pages, instead of --metrics-port.");
  table->Text(
      "tls-cert", &flags->tls.certificate.path,
      "PEM file of the certificate that gRPC and the HTTP API show, with those that lead to "
      "its authority; with it, they speak TLS. Read again when it changes.");
  table->Text("tls-key", &flags->tls.key.path, "PEM file of the key of --tls-cert.");
  table->Text("tls-client-ca", &flags->tls.authority.path,
              "PEM file of who signs the clients' certificates: without one nobody connects.");
  table->Text("api-keys", &flags->api_keys,
              "YAML file of API keys, see \"tessera keys\": gRPC and the HTTP API refuse everybody "
              "else. Read again when it changes, and on SIGHUP.");
  table->Flag("insecure", &flags->insecure,
              "Serve beyond this machine without TLS and without keys.");
  table->Flag("metrics-tls", &flags->metrics_tls, "Speak TLS on --metrics-port, too.");
  table->Text(
      "ready-file", &flags->ready_file,
      "Written once the server serves: {\"grpc_port\", \"http_port\", \"metrics_port\", \"pid\"}.");
  table->Text("expert-stats-file", &flags->expert_stats_file,
              "Written when the server stops: how often each expert was chosen, for \"tessera plan "
              "--expert-stats\".");
  table->Text("served-model-name", &flags->runtime.served_model_name,
              "Name that requests may use; empty: the name of the folder.");
  AddChatTemplateOption(table, &flags->runtime.chat_template);
  table->Flag("reflection", &flags->grpc.reflection, "Offer gRPC server reflection.");
  table->Integer("max-concurrent-requests", &flags->limits.max_concurrent_requests, {1, 1 << 20},
                 "Open generations; more are refused.");
  table->Bytes("max-message-size", &flags->limits.max_message_bytes, {1, kMaxMessage},
               "Largest request message, at most 1GiB.");
  table->Bytes("max-stream-buffer", &flags->limits.max_stream_buffer_bytes,
               {0, std::numeric_limits<int64_t>::max()},
               "Output that may wait for one slow client.");
  table->Seconds("max-connection-age", &flags->grpc.max_connection_age, 0,
                 "A connection takes no further calls after this time, in seconds, so that clients "
                 "behind a balancer of connections come back to another server; 0: never.");
  table->Seconds(
      "stream-stall-timeout", &flags->limits.stream_stall_timeout, 1,
      "How long a client may read nothing of what waits for it, in seconds; then its call "
      "ends ABORTED.");
  table->Seconds("drain-delay", &flags->drain.delay, 0,
                 "After SIGTERM: time for load balancers to notice, in seconds.");
  table->Seconds("drain-timeout", &flags->drain.timeout, 0,
                 "After SIGTERM: time for running requests to finish, in seconds.");
  table->Choice("log-level", &flags->log_level, {"debug", "info", "warning", "error"},
                "Log lines of this level and above go to stderr.");
  AddLogFormatOption(table, &flags->log_format);
}

}  // namespace

int RunServe(const Arguments& arguments) {
  OptionTable table("tessera serve", "MODEL",
                    "Serves the model in the folder MODEL (a Hugging Face Qwen3 checkpoint) over "
                    "gRPC and OpenAI-compatible HTTP.\nSIGTERM finishes the running requests and "
                    "exits; a second one ends them.");
  ServeFlags flags;
  AddServeOptions(&table, &flags);
  AddModelOptions(&table, &flags.runtime.engine);
  AddHeadOptions(&table, &flags.runtime);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "serve", arguments, &positional, 1)) return *exit;
  flags.runtime.engine.model.model_dir = positional[0];
  if (const absl::Status status = CheckHeadOptions(flags.runtime.head); !status.ok()) {
    return FailUsage("serve", status);
  }
  if (!IsMetricsPrefix(flags.metrics_prefix)) {
    return FailUsage("serve", absl::InvalidArgumentError(
                                  "--metrics-prefix: must be letters, digits and underscores, and "
                                  "begin with a letter"));
  }
  if (flags.metrics_tls && flags.tls.empty()) {
    return FailUsage("serve", absl::InvalidArgumentError("--metrics-tls: needs --tls-cert"));
  }
  if (const absl::Status status = CheckExposure(flags); !status.ok()) {
    return FailUsage("serve", status);
  }
  InitLogging(flags.log_level, ParseLogFormat(flags.log_format));
  RaiseFileLimit();
  CompleteAccess(&flags.runtime.head.access);
  flags.metrics.host = flags.http.host = HttpHost(flags.grpc.host);
  if (flags.http.port < 0) flags.http.port = flags.grpc.port == 0 ? 0 : kHttpPort;
  flags.http.limits.body_bytes = static_cast<size_t>(flags.limits.max_message_bytes);
  const absl::Status status = Serve(flags);
  return status.ok() ? kExitOk : Fail("serve", status);
}

}  // namespace tessera
