// What a served request costs beside the model's steps, from its bytes at the server's socket to
// those of the answer, and as a gRPC client sees it. Prints the limit, the value and their ratio.
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/status_macros.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/engine_flags.h"
#include "server/commands/percentiles.h"
#include "server/option_table.h"
#include "tests/bench/overhead.h"

namespace tessera {
namespace {

// Shorter than anybody notices beside a step of a real model.
constexpr double kLimit = 200e-6;

std::string ReportJson(const OverheadResult& result) {
  const double value = Percentile(result.at_socket, 0.5);
  return absl::StrCat(
      "{\"mode\": \"overhead\", ",
      absl::StrFormat("\"limit\": %.6g, \"value\": %.6g, \"ratio\": %.6g, ", kLimit, value,
                      value / kLimit),
      PercentilesJson("at_socket_seconds", result.at_socket), ", ",
      PercentilesJson("at_client_seconds", result.at_client), ", ",
      PercentilesJson("per_token_seconds", result.per_token), ", ",
      PercentilesJson("step_seconds", result.steps), ", ",
      PercentilesJson("empty_call_seconds", result.empty_calls), ", ",
      PercentilesJson("empty_call_after_step_seconds", result.empty_calls_after_steps), "}\n");
}

std::string ReportText(const OverheadResult& result) {
  constexpr double kMicro = 1e6;
  const double value = Percentile(result.at_socket, 0.5);
  return absl::StrCat(
      absl::StrFormat("request overhead         limit %.1f us, value %.1f us (p50), ratio %.3f\n",
                      kLimit * kMicro, value * kMicro, value / kLimit),
      PercentilesText("at the server's socket", result.at_socket),
      PercentilesText("at a gRPC client", result.at_client),
      PercentilesText("per streamed token", result.per_token),
      PercentilesText("step of a request", result.steps),
      PercentilesText("empty call", result.empty_calls),
      PercentilesText("empty call after a step", result.empty_calls_after_steps));
}

// What to print.
absl::StatusOr<std::string> Run(const std::vector<std::string>& arguments) {
  OptionTable table("overhead_bench", "MODEL",
                    "Serves the model in a process of its own and asks it from this one, one "
                    "request at a time.");
  OverheadOptions options;
  bool json = false;
  table.Flag("json", &json, "Print the result as JSON; times in seconds.");
  table.Section("Load");
  table.Integer("num-requests", &options.num_requests, {1, 1'000'000}, "Requests of every kind.");
  table.Milliseconds("pause-ms", &options.pause,
                     "How long the server is left alone before each request.");
  AddModelOptions(&table, &options.runtime.engine);
  AddHeadOptions(&table, &options.runtime);
  std::vector<std::string> positional;
  table.Positional(&positional);
  RETURN_IF_ERROR(table.Parse(
      {.arguments = arguments,
       .environment = [](const std::string&) -> std::optional<std::string> { return {}; }}));
  if (table.help_requested()) return table.Help();
  if (table.print_config_requested()) return table.PrintConfig();
  if (positional.size() != 1) return absl::InvalidArgumentError("give one MODEL (see --help)");
  RETURN_IF_ERROR(CheckHeadOptions(options.runtime.head));
  options.runtime.engine.model.model_dir = positional[0];
  options.runtime.token_ids_suffice = true;
  InitHeadLogging(options.runtime.head);
  CompleteAccess(&options.runtime.head.access);
  ASSIGN_OR_RETURN(const OverheadResult result, MeasureOverhead(options));
  return json ? ReportJson(result) : ReportText(result);
}

int Main(const std::vector<std::string>& arguments) {
  const absl::StatusOr<std::string> text = Run(arguments);
  if (!text.ok()) {
    std::fprintf(stderr, "overhead_bench: %s\n", std::string(text.status().message()).c_str());
    return 1;
  }
  std::fputs(text->c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  // As in the server: see server/main.cc.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return tessera::Main(std::vector<std::string>(argv + 1, argv + argc));
}
