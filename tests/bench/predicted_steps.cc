// predicted_steps [--launch-us X] CONFIG_FOLDER: a table of counted and predicted steps, for
// docs/benchmarks.md. CONFIG_FOLDER has NAME.config.json, as tests/data/reference/configs.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/planning/gpu_table.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "tests/bench/counted_step.h"

namespace tessera {
namespace {

struct Case {
  const char* model;
  LayoutRequest layout;
  const char* layout_name;
};

const Case kCases[] = {
    {"Qwen3-30B-A3B", {}, "1 GPU"},
    {"Qwen3-8B", {}, "1 GPU"},
    {"Qwen3-32B", {}, "1 GPU"},
    {"Qwen3-235B-A22B", {.tensor_parallel = 8, .expert_parallel = true}, "TP8, EP"},
};

struct Step {
  CountedShape shape;
  const char* name;
};

const Step kSteps[] = {
    {{.sequences = 1, .query = 1, .context = 1024}, "decode 1 at 1,024"},
    {{.sequences = 8, .query = 1, .context = 1024}, "decode 8 at 1,024"},
    {{.sequences = 32, .query = 1, .context = 1024}, "decode 32 at 1,024"},
    {{.sequences = 128, .query = 1, .context = 1024}, "decode 128 at 1,024"},
    {{.sequences = 1, .query = 4096, .context = 4096}, "prefill 4,096"},
};

absl::Status PrintRow(const ModelConfig& config, const Case& which, const Step& step,
                      double launch_seconds) {
  ASSIGN_OR_RETURN(const std::vector<CountedOperation> operations,
                   CountStep(config, which.layout, step.shape));
  const StepTotals totals = Total(operations);
  std::printf("| %s | %s | %s | %lld | %lld | %.3f | %.3f | %.2f |", which.model, which.layout_name,
              step.name, static_cast<long long>(totals.launches),
              static_cast<long long>(totals.collectives), totals.bytes / 1e9, totals.flops / 1e12,
              totals.sent / 1e6);
  for (const char* name : {"a100", "h100", "h200"}) {
    ASSIGN_OR_RETURN(const GpuSpec gpu, FindGpu(name));
    const double seconds = PredictedSeconds(operations, gpu, launch_seconds);
    const auto tokens = static_cast<double>(step.shape.sequences * step.shape.query);
    std::printf(" %.2f (%.0f) |", seconds * 1e3, tokens / seconds);
  }
  std::printf("\n");
  return absl::OkStatus();
}

absl::Status PrintTable(const std::string& folder, double launch_seconds) {
  constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
  std::printf(
      "| model | layout | step | operations | collectives | GB | TFLOP | MB sent | "
      "A100: ms (tokens/s) | H100 | H200 |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (const Case& which : kCases) {
    const std::string path = absl::StrCat(folder, "/", which.model, ".config.json");
    ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
    ASSIGN_OR_RETURN(const ModelConfig config, ParseModelConfig(text, path));
    for (const Step& step : kSteps) {
      RETURN_IF_ERROR(PrintRow(config, which, step, launch_seconds));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  double launch_us = 2;
  const bool has_launch = argc == 4 && std::string(argv[1]) == "--launch-us";
  if ((argc != 2 && !has_launch) || (has_launch && !absl::SimpleAtod(argv[2], &launch_us))) {
    std::fprintf(stderr, "usage: predicted_steps [--launch-us X] CONFIG_FOLDER\n");
    return 2;
  }
  const absl::Status status = tessera::PrintTable(argv[argc - 1], launch_us * 1e-6);
  if (status.ok()) return 0;
  std::fprintf(stderr, "predicted_steps: %s\n", std::string(status.message()).c_str());
  return 1;
}
