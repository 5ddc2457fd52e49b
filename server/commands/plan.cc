// tessera plan: which layouts of a model over GPUs fit, and how fast each would be at best.
#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/planning/plan_report.h"
#include "kernels/core/status_macros.h"
#include "server/commands/command.h"

namespace tessera {
namespace {

constexpr char kCommand[] = "plan";

struct PlanFlags {
  int32_t gpus = 1;
  std::string gpu = "h100";
  std::string dtype = "bfloat16";
  std::string goal = "throughput";
  int32_t context = 0;
  int32_t max_batched_tokens = 4096;
  std::optional<double> memory_utilization;
  std::string expert_stats;
  int32_t expert_replicas = 0;
  bool json = false;
};

void AddOptions(OptionTable* table, PlanFlags* flags) {
  table->Section("What to plan for");
  table->Integer("gpus", &flags->gpus, {1, kMaxPlanRanks},
                 "Ranks: tensor parallel x data parallel size of every layout.");
  table->Text("gpu", &flags->gpu, "h100, h200, b200, a100 or l40s; datasheet values are used.");
  table->Choice("dtype", &flags->dtype, {"bfloat16", "fp8", "int8", "int4"},
                "Format of the projections (q, k, v, o, gate, up, down); the rest and the KV cache "
                "stay bfloat16.");
  table->Choice("goal", &flags->goal, {"latency", "throughput"},
                "latency: shortest decode step of one sequence. throughput: most tokens per second "
                "with a full KV cache.");
  table->Integer("context", &flags->context, {0, 1 << 30},
                 "Tokens of every sequence; 0: 4096, or the model's limit if that is less.");
  table->Section("Memory");
  table->Real("gpu-memory-utilization", &flags->memory_utilization,
              "Share of a GPU's memory that may be used, above 0 and at most 1; unset: 0.9.");
  table->Integer("max-num-batched-tokens", &flags->max_batched_tokens, {64, 1 << 20},
                 "Most tokens of one step and data-parallel group; less where the buffers would "
                 "take more than a tenth of the memory.");
  table->Section("Experts");
  table->Text(
      "expert-stats", &flags->expert_stats,
      "JSON file with how often experts were chosen, {\"layers\": [[count of every expert], "
      "...]}: also proposes which of the --gpus ranks should hold which expert.");
  table->Integer("expert-replicas", &flags->expert_replicas, {0, 4096},
                 "With --expert-stats: slots on every rank for second copies of busy experts.");
  table->Section("Output");
  table->Flag("json", &flags->json, "As JSON, best layout first.");
}

// What is wrong whatever the model is.
absl::Status CheckFlags(const PlanFlags& flags) {
  if (const auto gpu = FindGpu(flags.gpu); !gpu.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--gpu: ", gpu.status().message()));
  }
  const double share = flags.memory_utilization.value_or(1);
  if (!(share > 0 && share <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpu-memory-utilization: must be in (0, 1], got ", share));
  }
  if (flags.expert_replicas > 0 && flags.expert_stats.empty()) {
    return absl::InvalidArgumentError("--expert-replicas needs --expert-stats");
  }
  return absl::OkStatus();
}

absl::StatusOr<PlanRequest> MakeRequest(const PlanFlags& flags, const ModelConfig& config) {
  PlanRequest request;
  request.gpus = flags.gpus;
  request.expert_replicas = flags.expert_replicas;
  ASSIGN_OR_RETURN(request.gpu, FindGpu(flags.gpu));
  ASSIGN_OR_RETURN(request.format, ParseWeightFormat(flags.dtype));
  ASSIGN_OR_RETURN(request.goal, ParsePlanGoal(flags.goal));
  request.context =
      flags.context > 0 ? flags.context : std::min(request.context, config.context_limit());
  request.max_batched_tokens = flags.max_batched_tokens;
  request.gpu_memory_utilization =
      flags.memory_utilization.value_or(request.gpu_memory_utilization);
  return request;
}

absl::StatusOr<PlanReport> MakeReport(const std::string& model, const PlanFlags& flags) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadPlanConfig(model));
  PlanReport report{.model = model};
  ASSIGN_OR_RETURN(report.request, MakeRequest(flags, config));
  ASSIGN_OR_RETURN(report.layouts, PlanLayouts(config, report.request));
  if (flags.expert_stats.empty()) return report;
  ASSIGN_OR_RETURN(const ExpertCounts counts, LoadExpertCounts(flags.expert_stats, config));
  ASSIGN_OR_RETURN(report.experts, PlanExperts(config, counts, flags.gpus, flags.expert_replicas));
  return report;
}

}  // namespace

int RunPlan(const Arguments& arguments) {
  OptionTable table("tessera plan", "MODEL",
                    "Lists the layouts of a model over GPUs, best first: what every rank holds, "
                    "how many tokens the KV cache gets, how long steps take at best. Reads only "
                    "config.json: MODEL is a folder that has one, or such a file.");
  PlanFlags flags;
  AddOptions(&table, &flags);
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, kCommand, arguments, &positional, 1)) {
    return *exit;
  }
  if (const absl::Status status = CheckFlags(flags); !status.ok()) {
    return FailUsage(kCommand, status);
  }
  const absl::StatusOr<PlanReport> report = MakeReport(positional[0], flags);
  if (!report.ok()) return Fail(kCommand, report.status());
  Print(flags.json ? PlanJson(*report) : PlanTable(*report));
  return kExitOk;
}

}  // namespace tessera
