// tessera bench: latency, throughput, or a running server under load.
#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/control_group.h"
#include "kernels/core/read_bandwidth.h"
#include "kernels/ops.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/percentiles.h"
#include "server/commands/target_flags.h"
#include "server/commands/workload.h"
#include "server/grpc/remote_generator.h"

namespace tessera {
namespace {

struct BenchFlags {
  Workload workload = {.num_requests = 0, .concurrency = 0};
  RuntimeOptions runtime{.token_ids_suffice = true};
  ServerTarget server;
  std::optional<double> memory_bandwidth;  // GB/s
  bool json = false;
};

struct Report {
  std::string mode;
  Workload workload;
  WorkloadResult result;
  double limit = 0;  // output tokens per second; 0: unknown
};

// Decoding reads every active weight once per token and sequence batch: the memory's bandwidth
// bounds the steps per second.
struct DecodeModel {
  int64_t num_active_parameters;
  DType dtype;
};

double DecodeLimit(const DecodeModel& model, double bytes_per_second, int32_t concurrency) {
  const double bytes =
      static_cast<double>(model.num_active_parameters) * static_cast<double>(SizeOf(model.dtype));
  return bytes_per_second / bytes * concurrency;
}

// Bytes per second, read by so many threads (0: one for each CPU); 0 when there is no memory to
// measure with.
double HostBandwidth(int32_t num_threads) {
  const int32_t cpus = UsableCpus();
  return MeasureReadBandwidth(num_threads > 0 ? std::min(num_threads, cpus) : cpus).value_or(0);
}

// Of the memory that holds the model's weights; 0: unknown.
double WeightBandwidth(const BenchFlags& flags, const ModelOptions& model) {
  constexpr double kGiga = 1e9;
  if (flags.memory_bandwidth) return *flags.memory_bandwidth * kGiga;
  return UsesHostMemory(model.backend) ? HostBandwidth(model.num_threads) : 0;
}

// The memory of this machine bounds a server only if it runs here.
double ServerLimit(const ServerTarget& server, int32_t concurrency) {
  const std::string& address = server.address;
  const bool is_here = absl::StartsWith(address, "127.") || absl::StartsWith(address, "[::1]") ||
                       absl::StartsWith(address, "localhost");
  const auto info = AskModelInfo(server);
  if (!is_here || !info.ok()) return 0;
  return DecodeLimit({.num_active_parameters = info->num_active_parameters(),
                      .dtype = info->dtype() == "float32" ? DType::kF32 : DType::kBF16},
                     HostBandwidth(0), concurrency);
}

// At concurrency 1 the decode speed alone, otherwise output tokens over the whole time.
double TokensPerSecond(const Report& report) {
  const WorkloadResult& r = report.result;
  if (report.workload.concurrency > 1 || r.inter_token.empty()) {
    return r.seconds > 0 ? static_cast<double>(r.output_tokens) / r.seconds : 0;
  }
  const double median = Percentile(r.inter_token, 0.5);
  return median > 0 ? 1 / median : 0;
}

std::string ReportText(const Report& report) {
  const WorkloadResult& r = report.result;
  const double value = TokensPerSecond(report);
  std::string text = absl::StrFormat(
      "%s: %d requests, %d at a time, %d tokens in, %d out, %d failed, %.2f s\n", report.mode,
      report.workload.num_requests, report.workload.concurrency, report.workload.input_len,
      report.workload.output_len, r.num_failed, r.seconds);
  if (report.limit > 0) {
    absl::StrAppendFormat(&text,
                          "output tokens/s          limit %.1f (memory bandwidth), value %.1f, "
                          "ratio %.3f\n",
                          report.limit, value, value / report.limit);
  } else {
    absl::StrAppendFormat(&text, "output tokens/s          value %.1f\n", value);
  }
  absl::StrAppend(&text, PercentilesText("time to first token", r.time_to_first_token),
                  PercentilesText("inter-token latency", r.inter_token),
                  PercentilesText("request", r.end_to_end));
  if (!r.first_error.empty()) absl::StrAppend(&text, "first error: ", r.first_error, "\n");
  return text;
}

std::string ReportJson(const Report& report) {
  const WorkloadResult& r = report.result;
  const double value = TokensPerSecond(report);
  const std::string limit = report.limit > 0 ? absl::StrFormat("\"limit\": %.6g, \"ratio\": %.6g, ",
                                                               report.limit, value / report.limit)
                                             : "\"limit\": null, \"ratio\": null, ";
  return absl::StrCat(
      "{\"mode\": \"", report.mode, "\", \"requests\": ", report.workload.num_requests,
      ", \"concurrency\": ", report.workload.concurrency,
      ", \"input_len\": ", report.workload.input_len,
      ", \"output_len\": ", report.workload.output_len, ", \"failed\": ", r.num_failed,
      ", \"seconds\": ", absl::StrFormat("%.6g", r.seconds),
      ", \"output_tokens_per_second\": ", absl::StrFormat("%.6g", value), ", ", limit,
      PercentilesJson("time_to_first_token_seconds", r.time_to_first_token), ", ",
      PercentilesJson("inter_token_latency_seconds", r.inter_token), ", ",
      PercentilesJson("request_seconds", r.end_to_end), "}\n");
}

int Finish(const BenchFlags& flags, const Report& report) {
  Print(flags.json ? ReportJson(report) : ReportText(report));
  const bool all_failed = report.result.end_to_end.empty();
  return all_failed ? Fail("bench", absl::UnknownError(absl::StrCat("every request failed: ",
                                                                    report.result.first_error)))
                    : kExitOk;
}

int BenchModel(const std::string& mode, const std::string& model_dir, BenchFlags flags) {
  const bool is_latency = mode == "latency";
  Workload& workload = flags.workload;
  if (workload.concurrency == 0) {
    workload.concurrency = is_latency ? 1 : flags.runtime.engine.scheduler.max_num_seqs;
  }
  if (workload.num_requests == 0) {
    workload.num_requests = is_latency ? 5 : 2 * workload.concurrency;
  }
  flags.runtime.engine.model.model_dir = model_dir;
  const auto runtime = LoadRuntime(flags.runtime);
  if (!runtime.ok()) return Fail("bench", runtime.status());
  workload.vocab_size = (*runtime)->model().vocab_size;
  Report report{.mode = mode, .workload = workload};
  report.limit =
      DecodeLimit({.num_active_parameters = (*runtime)->model().num_active_parameters,
                   .dtype = (*runtime)->options().model.dtype},
                  WeightBandwidth(flags, (*runtime)->options().model), workload.concurrency);
  const auto generator = MakeLocalGenerator(runtime->get());
  const auto run = [&](const Workload& load) {
    WorkloadResult result = RunWorkload(generator.get(), load);
    if (!(*runtime)->engine().stats().alive) {
      FailAtOnce("bench", absl::UnavailableError(result.first_error));
    }
    return result;
  };
  run({.num_requests = 1,
       .concurrency = 1,
       .input_len = workload.input_len,
       .output_len = 2,
       .vocab_size = workload.vocab_size});  // warm up
  report.result = run(workload);
  return Finish(flags, report);
}

int BenchServer(BenchFlags flags) {
  Workload& workload = flags.workload;
  if (workload.concurrency == 0) workload.concurrency = 16;
  if (workload.num_requests == 0) workload.num_requests = 4 * workload.concurrency;
  const auto generator = MakeRemoteGenerator({.server = flags.server});
  if (!generator.ok()) return Fail("bench", generator.status());
  Report report{.mode = "serve", .workload = workload};
  report.limit = ServerLimit(flags.server, workload.concurrency);
  report.result = RunWorkload(generator->get(), workload);
  return Finish(flags, report);
}

}  // namespace

int RunBench(const Arguments& arguments) {
  OptionTable table("tessera bench", "latency|throughput|serve MODEL|HOST:PORT",
                    "latency MODEL: one request at a time, in this process.\n"
                    "throughput MODEL: as many requests as fit, in this process.\n"
                    "serve HOST:PORT: concurrent streams against a running server.");
  BenchFlags flags;
  constexpr int64_t kMany = 1'000'000;
  table.Flag("json", &flags.json, "Print the result as JSON; times in seconds.");
  table.Real("memory-bandwidth", &flags.memory_bandwidth,
             "GB/s of the memory that holds the weights, for the limit; unset: measured, if it is "
             "this machine's and not a GPU's.");
  table.Section("Load");
  table.Integer("num-requests", &flags.workload.num_requests, {0, kMany},
                "Requests; 0: a few times the concurrency.");
  table.Integer("concurrency", &flags.workload.concurrency, {0, 4096},
                "Requests at a time; 0: 1 for latency, --max-num-seqs for throughput, 16 for "
                "serve.");
  table.Integer("input-len", &flags.workload.input_len, {1, kMany}, "Prompt tokens.");
  table.Integer("output-len", &flags.workload.output_len, {1, kMany}, "Generated tokens.");
  AddTargetOptions(&table, &flags.server);
  AddModelOptions(&table, &flags.runtime.engine);
  AddHeadOptions(&table, &flags.runtime);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "bench", arguments, &positional, 2)) return *exit;
  if (const absl::Status status = CheckHeadOptions(flags.runtime.head); !status.ok()) {
    return FailUsage("bench", status);
  }
  if (flags.memory_bandwidth.value_or(1) <= 0) {
    return FailUsage("bench", absl::InvalidArgumentError("--memory-bandwidth must be more than 0"));
  }
  InitHeadLogging(flags.runtime.head);
  CompleteAccess(&flags.runtime.head.access);
  const std::string& mode = positional[0];
  flags.server.address = positional[1];
  if (mode == "serve") return BenchServer(flags);
  if (mode == "latency" || mode == "throughput") return BenchModel(mode, positional[1], flags);
  return FailUsage("bench", absl::InvalidArgumentError(absl::StrCat(
                                "\"", mode, "\" is not latency, throughput or serve")));
}

}  // namespace tessera
