// tessera bench: latency, throughput, or a running server under load.
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/ops.h"
#include "server/commands/bench_report.h"
#include "server/commands/bench_serve.h"
#include "server/commands/bench_thinking.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/decode_limit.h"
#include "server/commands/engine_flags.h"
#include "server/commands/workload.h"

namespace tessera {
namespace {

struct BenchFlags {
  LoadShape shape = {.num_requests = 0, .concurrency = 0};
  RuntimeOptions runtime{.token_ids_suffice = true};
  std::optional<double> memory_bandwidth;  // GB/s
  bool json = false;
};

// Of the memory that holds the model's weights; 0: unknown.
double WeightBandwidth(const BenchFlags& flags, const ModelOptions& model) {
  constexpr double kGiga = 1e9;
  if (flags.memory_bandwidth) return *flags.memory_bandwidth * kGiga;
  return UsesHostMemory(model.backend) ? HostBandwidth(model.num_threads) : 0;
}

int BenchModel(const std::string& mode, const std::string& model_dir, BenchFlags flags) {
  const bool is_latency = mode == "latency";
  LoadShape& shape = flags.shape;
  if (shape.concurrency == 0) {
    shape.concurrency = is_latency ? 1 : flags.runtime.engine.scheduler.max_num_seqs;
  }
  if (shape.num_requests == 0) shape.num_requests = is_latency ? 5 : 2 * shape.concurrency;
  flags.runtime.engine.model.model_dir = model_dir;
  const auto runtime = LoadRuntime(flags.runtime);
  if (!runtime.ok()) return Fail("bench", runtime.status());
  BenchReport report{.mode = mode, .shape = shape};
  report.limit =
      DecodeLimit({.num_active_parameters = (*runtime)->model().num_active_parameters,
                   .dtype = (*runtime)->options().model.dtype},
                  WeightBandwidth(flags, (*runtime)->options().model), shape.concurrency);
  const auto generator = MakeLocalGenerator(runtime->get());
  const auto run = [&](const LoadShape& load) {
    WorkloadResult result = RunWorkload(generator.get(), MakeLoadPlan(load),
                                        {.vocab_size = (*runtime)->model().vocab_size});
    if (!(*runtime)->engine().stats().alive) {
      FailAtOnce("bench", absl::UnavailableError(result.first_error().message()));
    }
    return result;
  };
  run({.input_len = shape.input_len, .output_len = 2});  // warm up
  report.result = run(shape);
  return FinishBench(report, flags.json);
}

}  // namespace

int RunBench(const Arguments& arguments) {
  if (!arguments.empty() && arguments[0] == "serve") {
    return RunBenchServe({arguments.begin() + 1, arguments.end()});
  }
  if (!arguments.empty() && arguments[0] == "thinking") {
    return RunBenchThinking({arguments.begin() + 1, arguments.end()});
  }
  OptionTable table("tessera bench", "latency|throughput MODEL",
                    "latency MODEL: one request at a time, in this process.\n"
                    "throughput MODEL: as many requests as fit, in this process.\n"
                    "serve TARGET: a running server under load; see tessera bench serve --help.\n"
                    "thinking MODEL: what thinking only where it is needed saves and costs.");
  BenchFlags flags;
  constexpr int64_t kMany = 1'000'000;
  table.Flag("json", &flags.json, "Print the result as JSON; times in seconds.");
  table.Real("memory-bandwidth", &flags.memory_bandwidth,
             "GB/s of the memory that holds the weights, for the limit; unset: measured, if it is "
             "this machine's and not a GPU's.");
  table.Section("Load");
  table.Integer("num-requests", &flags.shape.num_requests, {0, kMany},
                "Requests; 0: a few times the concurrency.");
  table.Integer("concurrency", &flags.shape.concurrency, {0, 4096},
                "Requests at a time; 0: 1 for latency, --max-num-seqs for throughput.");
  table.Integer("input-len", &flags.shape.input_len, {1, kMany}, "Prompt tokens.");
  table.Integer("output-len", &flags.shape.output_len, {1, kMany}, "Generated tokens.");
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
  if (mode == "latency" || mode == "throughput") return BenchModel(mode, positional[1], flags);
  return FailUsage("bench", absl::InvalidArgumentError(absl::StrCat(
                                "\"", mode, "\" is not latency, throughput or serve")));
}

}  // namespace tessera
