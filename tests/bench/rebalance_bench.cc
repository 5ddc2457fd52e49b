// What moving experts costs: step times of a model with a skewed router before, while and after its
// experts move, and how even the ranks become.
//
//   rebalance_bench [tp] [dp] [alltoall|allreduce] [hidden] [expert width] [steps]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "kernels/core/status_macros.h"
#include "tests/support/skewed_moe.h"

namespace tessera {
namespace {

struct Arguments {
  LayoutOptions layout{2, 2, true, "alltoall"};
  SkewedMoeShape shape{.layers = 4, .hidden = 512, .expert_width = 256, .experts = 32};
  int32_t steps = 1500;
};

// Decode steps only: a prompt's step takes longer by itself. Experts have their first places until
// the first load, and their last ones after the last.
struct StepTimes {
  std::vector<double> before;
  std::vector<double> between;  // loads, nothing loaded since the step before
  std::vector<double> behind;   // somebody loaded a matrix just before
  std::vector<double> after;

  void Add(double seconds, bool loaded) {
    if (loaded) {
      between.insert(between.end(), after.begin(), after.end());
      after.clear();
      behind.push_back(seconds);
    } else {
      (behind.empty() ? before : after).push_back(seconds);
    }
  }
};

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

void PrintTimes(const char* name, const std::vector<double>& seconds, double median) {
  if (seconds.empty()) return;
  const auto slow = std::count_if(seconds.begin(), seconds.end(),
                                  [median](double value) { return value > 1.5 * median; });
  std::printf(
      "%-26s %5zu steps   median %7.3f ms (%.2f x)   p95 %.2f x   largest %.2f x   above 1.5 x: "
      "%.1f %%\n",
      name, seconds.size(), Median(seconds) * 1e3, Median(seconds) / median,
      Quantile(seconds, 0.95) / median, Quantile(seconds, 1) / median,
      100.0 * static_cast<double>(slow) / static_cast<double>(seconds.size()));
}

void PrintRatios(const ExpertLoads& loads, int32_t step) {
  std::printf("step %5d  busiest rank over the mean, per layer:", step);
  for (const LayerLoad& layer : loads.layers) {
    std::printf(" %.2f", static_cast<double>(layer.max_over_mean));
  }
  std::printf("   layers moved %lld\n", static_cast<long long>(loads.moves.completed));
}

absl::Status Bench(const Arguments& arguments, const std::string& folder) {
  RETURN_IF_ERROR(WriteSkewedMoe(arguments.shape, folder));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(folder));
  ModelOptions options{.model_dir = folder, .backend = "cpu", .dtype = DType::kBF16};
  options.layout = arguments.layout;
  options.layout.expert_rebalance_interval = 64;
  ASSIGN_OR_RETURN(const auto executor,
                   CreateLocalExecutor(options,
                                       {.block_size = SteadyWorkload::kBlockSize,
                                        .max_num_batched_tokens = 128,
                                        .max_model_len = 256},
                                       config, nullptr));
  RETURN_IF_ERROR(executor->AllocateKv(SteadyWorkload::kNumBlocks));
  SteadyWorkload workload(0, arguments.layout.data_parallel);
  StepTimes times;
  int64_t most_moved = 0;
  for (int32_t step = 0; step < arguments.steps; ++step) {
    StepPlan plan = workload.Next();
    plan.return_logits = false;
    const auto start = std::chrono::steady_clock::now();
    executor->Submit(std::move(plan));
    ASSIGN_OR_RETURN(const StepResult result, executor->Wait());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    workload.Take(result);
    // A report tells what its rank loaded before the step.
    int64_t moved = 0;
    for (const RankReport& report : result.ranks) moved = std::max(moved, report.moved_bytes);
    most_moved = std::max(most_moved, moved);
    if (step % SteadyWorkload::kStepsPerRound != 0) {
      times.Add(elapsed.count(), moved > 0);
    }
    if (result.expert_loads != nullptr) {
      PrintRatios(*result.expert_loads, step);
    }
  }
  const double median = Median(times.before);
  PrintTimes("before the first load", times.before, median);
  PrintTimes("behind a load", times.behind, median);
  PrintTimes("between loads", times.between, median);
  PrintTimes("after the last load", times.after, median);
  std::printf("most bytes that a rank loaded between two steps: %lld\n",
              static_cast<long long>(most_moved));
  return executor->Shutdown(absl::Now() + absl::Seconds(10));
}

int32_t Number(const char* text) {
  int32_t value = 0;
  return absl::SimpleAtoi(text, &value) ? value : 0;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  if (argc > 1) arguments.layout.tensor_parallel = Number(argv[1]);
  if (argc > 2) arguments.layout.data_parallel = Number(argv[2]);
  if (argc > 3) arguments.layout.moe_comm = argv[3];
  if (argc > 4) arguments.shape.hidden = Number(argv[4]);
  if (argc > 5) arguments.shape.expert_width = Number(argv[5]);
  if (argc > 6) arguments.steps = Number(argv[6]);
  const auto folder = std::filesystem::temp_directory_path() / "tessera_rebalance_bench";
  const absl::Status status = Bench(arguments, folder.string());
  std::filesystem::remove_all(folder);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) { return tessera::Main(argc, argv); }
