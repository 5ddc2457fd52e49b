#include "server/commands/bench_serve.h"

#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/text_file.h"
#include "server/commands/decode_limit.h"
#include "server/commands/target_flags.h"
#include "server/grpc/client_channel.h"
#include "server/grpc/remote_generator.h"
#include "server/http/openai/api_client.h"

namespace tessera {
namespace {

constexpr int64_t kMany = 1'000'000;
constexpr int64_t kMaxTraceBytes = 256 << 20;

// Set by Ctrl-C: the load ends, and what was measured is told.
std::atomic<bool> g_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

void OnInterrupt(int) { g_interrupted.store(true); }

struct ServeFlags {
  LoadShape shape = {.num_requests = 0, .concurrency = 0};
  std::optional<double> rate;
  std::string lengths = "fixed";
  int64_t seed = 1;
  std::string trace;
  std::string model;
  std::string endpoint = "chat";
  ServerTarget server;
  bool ignore_eos = true;
  absl::Duration duration = absl::ZeroDuration();
  absl::Duration timeout = absl::ZeroDuration();
  absl::Duration progress = absl::Seconds(2);
  absl::Duration first_token = absl::ZeroDuration();
  absl::Duration inter_token = absl::ZeroDuration();
  bool json = false;
};

bool IsHttp(const std::string& target) {
  return absl::StartsWith(target, "http://") || absl::StartsWith(target, "https://");
}

std::optional<absl::Duration> IfSet(absl::Duration time) {
  if (time <= absl::ZeroDuration()) return std::nullopt;
  return time;
}

// The memory of this machine bounds a server only if it runs here.
double ServerLimit(const ServerTarget& server, int32_t concurrency) {
  const std::string& address = server.address;
  const bool is_here = absl::StartsWith(address, "127.") || absl::StartsWith(address, "[::1]") ||
                       absl::StartsWith(address, "localhost");
  if (!is_here) return 0;
  const auto info = AskModelInfo(server);
  if (!info.ok()) return 0;
  return DecodeLimit({.num_active_parameters = info->num_active_parameters(),
                      .dtype = info->dtype() == "float32" ? DType::kF32 : DType::kBF16},
                     HostBandwidth(0), concurrency);
}

void AddOptions(OptionTable* table, ServeFlags* flags) {
  table->Flag("json", &flags->json, "Print the result as JSON; times in seconds.");
  table->Seconds("progress", &flags->progress, 0,
                 "Seconds between lines about the progress on stderr; 0: none.");
  table->Section("Load");
  table->Real("rate", &flags->rate,
              "Requests per second, at random times (a Poisson process), whatever became of those "
              "before: an open loop. Unset: a closed one.");
  table->Integer("concurrency", &flags->shape.concurrency, {0, 4096},
                 "Requests at a time, with --rate at most; 0: 16, with --rate 1024.");
  table->Integer("num-requests", &flags->shape.num_requests, {0, kMany},
                 "Requests; 0: as many as --duration has time for, without it four times the "
                 "concurrency, with --rate what it sends in ten seconds.");
  table->Seconds("duration", &flags->duration, 0,
                 "Seconds after which nothing more is sent; 0: when all were.");
  table->Integer("input-len", &flags->shape.input_len, {1, kMany},
                 "Prompt tokens; words of a chat.");
  table->Integer("output-len", &flags->shape.output_len, {1, kMany}, "Generated tokens.");
  table->Choice("lengths", &flags->lengths, {"fixed", "chat"},
                "chat: lengths vary as in conversations, log-normally around these medians.");
  table->Text("trace", &flags->trace,
              "File that says what to send instead, a line for each request: {\"at\": seconds, "
              "\"input\": tokens, \"output\": tokens}; without \"at\" as --rate says.");
  table->Integer("seed", &flags->seed, {0, INT64_MAX}, "Of times and lengths.");
  table->Flag("ignore-eos", &flags->ignore_eos,
              "Answers go on to their length; servers that do not know ignore_eos may refuse it.");
  table->Seconds("timeout", &flags->timeout, 0, "Deadline of a request in seconds; 0: none.");
  table->Section("Goodput");
  table->Milliseconds("slo-ttft-ms", &flags->first_token,
                      "A request is good when its first token comes within this time; 0: any.");
  table->Milliseconds("slo-itl-ms", &flags->inter_token,
                      "And when the mean time between its tokens is at most this; 0: any.");
  table->Section("OpenAI's API");
  table->Text("model", &flags->model, "Model to ask for; empty: the first that the server lists.");
  table->Choice("endpoint", &flags->endpoint, {"chat", "completions"},
                "chat: messages of common words; completions: prompts of token ids.");
  AddTargetOptions(table, &flags->server);
}

absl::Status CheckFlags(const ServeFlags& flags) {
  const ServerTarget& server = flags.server;
  if (flags.rate && (*flags.rate <= 0 || *flags.rate > kMany)) {
    return absl::InvalidArgumentError("--rate must be more than 0 and at most 1e6");
  }
  if (!flags.trace.empty() && flags.lengths != "fixed") {
    return absl::InvalidArgumentError("--lengths and --trace: no more than one of them");
  }
  if (!IsHttp(server.address)) {
    return flags.model.empty()
               ? CheckServerAddress(server.address)
               : absl::InvalidArgumentError("--model needs a target http://HOST:PORT");
  }
  if (server.uses_tls || !server.authority.empty() || !server.certificate.empty()) {
    return absl::InvalidArgumentError("--tls and its files need a target HOST:PORT");
  }
  return CheckApiUrl(server.address);
}

// What was left to us.
void CompleteShape(ServeFlags* flags) {
  constexpr int32_t kClosed = 16;
  constexpr int32_t kOpen = 1024;
  constexpr double kSeconds = 10;
  LoadShape& shape = flags->shape;
  shape.rate = flags->rate.value_or(0);
  shape.chat_lengths = flags->lengths == "chat";
  shape.seed = static_cast<uint64_t>(flags->seed);
  const bool is_open = shape.rate > 0;
  if (shape.concurrency == 0) shape.concurrency = is_open ? kOpen : kClosed;
  if (shape.num_requests > 0 || !flags->trace.empty()) return;
  const double seconds = absl::ToDoubleSeconds(flags->duration);
  double count = 4.0 * shape.concurrency;
  if (is_open) {
    // Enough for the whole time, however the gaps fall.
    count =
        seconds > 0 ? std::ceil(2 * shape.rate * seconds) + 16 : std::ceil(shape.rate * kSeconds);
  } else if (seconds > 0) {
    count = kMany;
  }
  shape.num_requests = static_cast<int32_t>(std::min(count, 1.0 * kMany));
}

absl::StatusOr<LoadPlan> PlanOf(const ServeFlags& flags) {
  if (flags.trace.empty()) return MakeLoadPlan(flags.shape);
  const auto text = ReadTextFile(flags.trace, kMaxTraceBytes);
  if (!text.ok()) return text.status();
  auto plan = PlanOfTrace(*text, flags.shape);
  if (plan.ok()) return plan;
  return absl::InvalidArgumentError(absl::StrCat(flags.trace, ": ", plan.status().message()));
}

absl::StatusOr<std::unique_ptr<TextGenerator>> Connect(const ServeFlags& flags) {
  const absl::Duration timeout = IfSet(flags.timeout).value_or(absl::InfiniteDuration());
  if (!IsHttp(flags.server.address)) {
    return MakeRemoteGenerator({.server = flags.server, .timeout = timeout});
  }
  const auto authorization = AuthorizationFor(flags.server);
  if (!authorization.ok()) return authorization.status();
  return MakeApiClient({.url = flags.server.address,
                        .model = flags.model,
                        .authorization = *authorization,
                        .timeout = timeout});
}

void PrintProgress(const WorkloadProgress& now) {
  // NOLINTNEXTLINE(cert-err33-c): nothing is lost when nobody reads it
  std::fputs(absl::StrFormat("%6.1f s: %d sent, %d under way, %d done, %d failed, %.1f tokens/s\n",
                             now.seconds, now.sent, now.sent - now.done, now.done, now.failed,
                             static_cast<double>(now.output_tokens) / now.seconds)
                 .c_str(),
             stderr);
}

WorkloadResult Run(TextGenerator* generator, const LoadPlan& plan, const RequestStyle& style,
                   const ServeFlags& flags) {
  struct sigaction action = {};
  action.sa_handler = &OnInterrupt;
  sigaction(SIGINT, &action, nullptr);
  WorkloadControl control{.stop_after = IfSet(flags.duration).value_or(absl::InfiniteDuration()),
                          .cancelled = &g_interrupted};
  if (flags.progress > absl::ZeroDuration()) {
    control.on_progress = &PrintProgress;
    control.period = flags.progress;
  }
  return RunWorkload(generator, plan, style, control);
}

}  // namespace

int FinishBench(const BenchReport& report, bool json) {
  Print(json ? BenchReportJson(report) : BenchReportText(report));
  if (report.result.num_failed() < std::ssize(report.result.samples)) return kExitOk;
  const absl::Status error = report.result.first_error();
  return Fail("bench", error.ok() ? absl::UnknownError("nothing was sent")
                                  : absl::UnknownError(
                                        absl::StrCat("every request failed: ", error.message())));
}

int RunBenchServe(const Arguments& arguments) {
  OptionTable table("tessera bench serve", "HOST:PORT|unix:PATH|http://HOST:PORT",
                    "Puts a running server under load: Tessera's over gRPC, or any with OpenAI's "
                    "API over HTTP.\nCtrl-C ends the load early.");
  ServeFlags flags;
  AddOptions(&table, &flags);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "bench", arguments, &positional, 1)) return *exit;
  flags.server.address = positional[0];
  if (const absl::Status status = CheckFlags(flags); !status.ok()) {
    return FailUsage("bench", status);
  }
  CompleteShape(&flags);
  const auto plan = PlanOf(flags);
  if (!plan.ok()) return Fail("bench", plan.status());
  const auto generator = Connect(flags);
  if (!generator.ok()) return Fail("bench", generator.status());
  const bool is_http = IsHttp(flags.server.address);
  BenchReport report{.mode = "serve",
                     .shape = flags.shape,
                     .is_open = plan->is_open,
                     .objective = {.first_token = IfSet(flags.first_token),
                                   .inter_token = IfSet(flags.inter_token)}};
  if (!is_http && !plan->is_open) report.limit = ServerLimit(flags.server, flags.shape.concurrency);
  report.result =
      Run(generator->get(), *plan,
          {.is_chat = is_http && flags.endpoint == "chat", .ignore_eos = flags.ignore_eos}, flags);
  return FinishBench(report, flags.json);
}

}  // namespace tessera
