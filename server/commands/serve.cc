// tessera serve: load, listen, drain.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/planning/expert_plan.h"
#include "kernels/core/status_macros.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/grpc/accept_check.h"
#include "server/grpc/drain.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
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
  HttpServerOptions metrics{.option = "--metrics-port", .port = 9090, .max_connections = 128};
  std::string ready_file;
  std::string expert_stats_file;
  ServiceLimits limits;
  DrainOptions drain;
  std::string log_level = "info";
};

// What the signal thread, the engine and the health pages tell each other.
class ServerState {
 public:
  // The first signal asks for a drain, the second cuts it short, the third ends the process.
  void OnSignal(int count) {
    absl::MutexLock lock(&mutex_);
    if (context_ == nullptr) {
      LogInfo("stopped while loading");
      std::_Exit(kExitOk);
    }
    if (count > 2) std::_Exit(kExitFailure);
    if (count == 2) {
      LogWarning("second signal: ending the running requests");
      context_->active.CancelAll(*context_->engine, absl::UnavailableError("the server stops"));
      context_->gate.Hurry();
    }
    context_->ready = false;
    stop_ = true;
  }
  void OnEngineDead(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (death_.ok()) LogError(std::string(status.message()));
    death_ = status;
    stop_ = true;
    if (context_ != nullptr) context_->ready = false;
  }
  // `accepts` says whether clients get through to the server; empty without a context.
  void Serve(InferenceContext* context, std::function<absl::Status()> accepts) {
    absl::MutexLock lock(&mutex_);
    context_ = context;
    accepts_ = std::move(accepts);
    if (context != nullptr && !death_.ok()) context->ready = false;
  }
  // Blocks until somebody wants the server to stop; an error when the engine died.
  absl::Status WaitForStop() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&stop_));
    return death_;
  }
  // Why the engine died; also while the server drains.
  absl::Status death() const {
    absl::MutexLock lock(&mutex_);
    return death_;
  }
  absl::Status Healthy(absl::Duration step_timeout) const {
    absl::MutexLock lock(&mutex_);
    if (!death_.ok()) return absl::UnavailableError("the engine has failed");
    if (context_ == nullptr) return absl::OkStatus();
    if (context_->engine->stats().step_age > step_timeout) {
      return absl::UnavailableError("no step has finished for too long");
    }
    return absl::OkStatus();
  }
  absl::Status Ready() const {
    absl::MutexLock lock(&mutex_);
    if (context_ == nullptr) return absl::UnavailableError("loading");
    if (!death_.ok()) return absl::UnavailableError("the engine has failed");
    if (!context_->ready.load()) return absl::UnavailableError("draining");
    if (context_->IsSaturated()) return absl::UnavailableError("saturated: the queue is full");
    return accepts_();
  }

 private:
  mutable absl::Mutex mutex_;
  InferenceContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::function<absl::Status()> accepts_ ABSL_GUARDED_BY(mutex_);
  absl::Status death_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
};

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

absl::Status WriteReadyFile(const std::string& path, int32_t grpc_port, int32_t metrics_port) {
  if (path.empty()) return absl::OkStatus();
  return WriteWhole("--ready-file", path,
                    absl::StrCat("{\"grpc_port\": ", grpc_port, ", \"metrics_port\": ",
                                 metrics_port, ", \"pid\": ", getpid(), "}\n"));
}

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

absl::Status Serve(const ServeFlags& flags) {
  MetricsRecorder metrics;
  ServerState state;
  LatestExpertLoads expert_loads;
  const SignalWatcher signals([&state](int count) { state.OnSignal(count); });
  LogInfo(absl::StrCat("tessera ", std::string(kVersion), ", gRPC ", GrpcVersion()));
  ASSIGN_OR_RETURN(
      const std::unique_ptr<HttpServer> probes,
      HttpServer::Start(flags.metrics, ProbeHandler(PagesOf(flags, &metrics, &state))));
  // Loading takes minutes: what would fail after it is tried before.
  RETURN_IF_ERROR(GrpcServer::CheckAddress(flags.grpc));
  RETURN_IF_ERROR(CheckFolderOf("--ready-file", flags.ready_file));
  RETURN_IF_ERROR(CheckFolderOf("--expert-stats-file", flags.expert_stats_file));
  RuntimeOptions options = flags.runtime;
  // An idle engine asks nothing of the other nodes and would not notice.
  options.head.on_failure = [&state](const absl::Status& why) { state.OnEngineDead(why); };
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
  ASSIGN_OR_RETURN(const std::unique_ptr<GrpcServer> server,
                   GrpcServer::Start(&context, flags.grpc));
  metrics.Attach({.engine = &runtime->engine(),
                  .active_requests = [&context] { return context.active.size(); },
                  .large_requests_queued = [&context] { return context.workers.num_queued(); },
                  .block_size = runtime->options().scheduler.block_size,
                  .group = runtime->group()});
  AcceptCheck accept_check(flags.grpc.host, server->port());
  state.Serve(&context, [&accept_check] { return accept_check.Check(); });
  server->SetServing(true);
  absl::Status status = WriteReadyFile(flags.ready_file, server->port(), probes->port());
  LogInfo(absl::StrCat("serving \"", runtime->model().name, "\" (context ",
                       runtime->model().max_model_len, " tokens) on ", flags.grpc.host, ":",
                       server->port(), ", metrics on ", probes->address()));
  if (status.ok()) status = state.WaitForStop();
  LogInfo(absl::StrCat("stopping: ", context.active.size(), " requests are open"));
  DrainServer(flags.drain, &context, server.get());
  // A group that fails while it drains has not ended in order.
  if (status.ok()) status = state.death();
  if (status.ok() && !runtime->engine().stats().alive) {
    status = absl::UnavailableError("the engine has failed");
  }
  LogInfo("stopped");
  metrics.Attach({});
  state.Serve(nullptr, {});
  const absl::Status written = expert_loads.Write(flags.expert_stats_file);
  if (!written.ok()) LogWarning(std::string(written.message()));
  if (!status.ok()) FailAtOnce("serve", status);  // a supervisor waits to start the group again
  return absl::OkStatus();
}

void AddServeOptions(OptionTable* table, ServeFlags* flags) {
  constexpr int64_t kMaxPort = 65535;
  constexpr int64_t kMaxMessage = int64_t{1} << 30;
  table->Section("Server");
  table->Text("host", &flags->grpc.host, "Address to listen on.");
  table->Integer("port", &flags->grpc.port, {0, kMaxPort}, "gRPC port; 0: a free one.");
  table->Integer("metrics-port", &flags->metrics.port, {0, kMaxPort},
                 "HTTP port of /metrics, /healthz and /readyz; 0: a free one.");
  table->Text("metrics-socket", &flags->metrics.unix_path,
              "Unix socket for these pages, instead of --metrics-port.");
  table->Text("ready-file", &flags->ready_file,
              "Written once the server serves: {\"grpc_port\", \"metrics_port\", \"pid\"}.");
  table->Text("expert-stats-file", &flags->expert_stats_file,
              "Written when the server stops: how often each expert was chosen, for \"tessera plan "
              "--expert-stats\".");
  table->Text("served-model-name", &flags->runtime.served_model_name,
              "Name that requests may use; empty: the name of the folder.");
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
  table->Seconds("drain-delay", &flags->drain.delay, 0,
                 "After SIGTERM: time for load balancers to notice, in seconds.");
  table->Seconds("drain-timeout", &flags->drain.timeout, 0,
                 "After SIGTERM: time for running requests to finish, in seconds.");
  table->Choice("log-level", &flags->log_level, {"debug", "info", "warning", "error"},
                "Log lines of this level and above go to stderr.");
}

}  // namespace

int RunServe(const Arguments& arguments) {
  OptionTable table("tessera serve", "MODEL",
                    "Serves the model in the folder MODEL (a Hugging Face Qwen3 checkpoint) over "
                    "gRPC.\nSIGTERM finishes the running requests and exits; a second one ends "
                    "them.");
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
  InitLogging(flags.log_level);
  RaiseFileLimit();
  CompleteAccess(&flags.runtime.head.access);
  flags.metrics.host = flags.grpc.host;
  const absl::Status status = Serve(flags);
  return status.ok() ? kExitOk : Fail("serve", status);
}

}  // namespace tessera
