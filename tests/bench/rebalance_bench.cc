// What moving experts costs: step times of a model with a skewed router before, while and after its
// experts move, and how even the ranks become.
//
//   rebalance_bench [tp] [dp] [alltoall|allreduce] [hidden] [expert width] [steps] [replays]
//
// A machine delays a few steps in a hundred by more than half, whatever they do. So the same run is
// repeated, each time by a new group of ranks, and of every step the fastest repetition counts: a
// step that has more to do than others is slow in each of them. When a rank's experts are ready
// depends on the machine, so steps are told apart by what happened last, not by their number. The
// fastest repetition says what a step must take, the median one what it takes.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/executor/local_executor.h"
#include "engine/model/model_config.h"
#include "kernels/core/status_macros.h"
#include "tests/support/skewed_moe.h"

namespace tessera {
namespace {

constexpr double kLimit = 1.5;  // of a step over the median before the first load
// A step that fewer repetitions have is not told from the machine's noise.
constexpr size_t kFewestSightings = 3;

struct Arguments {
  LayoutOptions layout{2, 2, true, "alltoall"};
  SkewedMoeShape shape{.layers = 4, .hidden = 512, .expert_width = 256, .experts = 32};
  int32_t steps = 512;
  int32_t replays = 9;
};

enum Phase : uint8_t { kBefore, kBehindLoad, kBetween, kAfter, kNumPhases };
constexpr std::array<const char*, kNumPhases> kPhaseNames = {
    "before the first load", "behind a load", "between loads", "after the last switch"};

// One step of one repetition.
struct Step {
  double seconds = 0;
  bool is_prompt = false;       // takes longer than a decode step by itself
  bool exchanged = false;       // the ranks' counts
  std::vector<int64_t> loaded;  // bytes that each rank loaded before it
  // Set when the run is known as a whole:
  Phase phase = kBefore;
  double ratio = 0;                 // to the median of its kind before the first load
  std::vector<std::string> labels;  // what it has in common with steps of other repetitions

  bool behind_load() const {
    return std::any_of(loaded.begin(), loaded.end(), [](int64_t bytes) { return bytes > 0; });
  }
};
using Replay = std::vector<Step>;

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}
double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

// The ranks switch behind the step that follows the last load of a round.
void SetPhases(Replay* replay) {
  const auto loads = [](const Step& step) { return step.behind_load(); };
  const auto first = std::find_if(replay->begin(), replay->end(), loads) - replay->begin();
  const auto last = replay->rend() - std::find_if(replay->rbegin(), replay->rend(), loads);
  for (int64_t i = 0; i < static_cast<int64_t>(replay->size()); ++i) {
    Step& step = (*replay)[i];
    step.phase = i < first            ? kBefore
                 : step.behind_load() ? kBehindLoad
                 : i <= last          ? kBetween
                                      : kAfter;
  }
}

double MedianBefore(const Replay& replay, bool is_prompt) {
  std::vector<double> seconds;
  for (const Step& step : replay) {
    if (step.phase == kBefore && step.is_prompt == is_prompt) seconds.push_back(step.seconds);
  }
  return Median(std::move(seconds));
}

void SetRatios(Replay* replay) {
  const double decode = MedianBefore(*replay, false);
  const double prompt = MedianBefore(*replay, true);
  for (Step& step : *replay) step.ratio = step.seconds / (step.is_prompt ? prompt : decode);
}

// How many matrices each rank has loaded, behind every step.
std::vector<std::string> Progress(const Replay& replay) {
  std::vector<int32_t> matrices(replay.front().loaded.size());
  std::vector<std::string> progress;
  for (const Step& step : replay) {
    for (size_t rank = 0; rank < matrices.size(); ++rank) matrices[rank] += step.loaded[rank] > 0;
    progress.push_back(absl::StrJoin(matrices, ","));
  }
  return progress;
}

// What every repetition comes to, whichever of its ranks are faster: the ends of rounds.
std::set<std::string> CommonProgress(const std::vector<Replay>& replays) {
  std::map<std::string, size_t> seen;
  for (const Replay& replay : replays) {
    const std::vector<std::string> progress = Progress(replay);
    for (const std::string& loaded : std::set(progress.begin(), progress.end())) ++seen[loaded];
  }
  std::set<std::string> common;
  for (const auto& [loaded, count] : seen) {
    if (count == replays.size()) common.insert(loaded);
  }
  return common;
}

// A step behind loads is "the one behind matrix n of rank r", for each of them; any other is "the
// n-th without a load behind that exchange" or "behind that round", whichever was later.
void SetLabels(const std::set<std::string>& rounds, Replay* replay) {
  const std::vector<std::string> progress = Progress(*replay);
  std::vector<int32_t> matrices(replay->front().loaded.size());
  std::string event = "start";
  int32_t behind = 0;
  for (size_t number = 0; number < replay->size(); ++number) {
    Step& step = (*replay)[number];
    const char* const kind = step.is_prompt ? "prompt" : "decode";
    for (size_t rank = 0; rank < matrices.size(); ++rank) {
      if (step.loaded[rank] == 0) continue;
      step.labels.push_back(
          absl::StrCat(kind, " behind matrix ", ++matrices[rank], " of rank ", rank));
    }
    if (step.exchanged) {
      event = absl::StrCat("exchange ", number);
      behind = 0;
      step.labels.push_back(absl::StrCat(kind, " with ", event));
    } else if (!step.behind_load()) {
      step.labels.push_back(absl::StrCat(kind, " ", ++behind, " behind ", event));
    } else if (rounds.count(progress[number]) > 0) {
      event = absl::StrCat("loads ", progress[number]);
      behind = 0;
    }
  }
}

// The repetitions of one step.
struct Sightings {
  Phase phase = kBefore;
  std::vector<double> ratios;
};

std::map<std::string, Sightings> Align(const std::vector<Replay>& replays) {
  std::map<std::string, Sightings> steps;
  for (const Replay& replay : replays) {
    for (const Step& step : replay) {
      for (const std::string& label : step.labels) {
        Sightings& sightings = steps[label];
        // The end of a move comes sooner in some.
        sightings.phase =
            sightings.ratios.empty() ? step.phase : std::min(sightings.phase, step.phase);
        sightings.ratios.push_back(step.ratio);
      }
    }
  }
  return steps;
}

struct Figures {
  double steps, median, p95, largest, slow_percent;
};

Figures Describe(const std::vector<double>& ratios) {
  const auto slow =
      std::count_if(ratios.begin(), ratios.end(), [](double ratio) { return ratio > kLimit; });
  const auto count = static_cast<double>(ratios.size());
  return {.steps = count,
          .median = Median(ratios),
          .p95 = Quantile(ratios, 0.95),
          .largest = Quantile(ratios, 1),
          .slow_percent = ratios.empty() ? 0 : 100.0 * static_cast<double>(slow) / count};
}

void Print(const char* phase, const char* what, const Figures& figures) {
  std::printf(
      "%-22s %-22s %4.0f steps   median %.2f x   p95 %.2f x   largest %5.2f x   above %.1f x: "
      "%4.1f %%\n",
      phase, what, figures.steps, figures.median, figures.p95, figures.largest, kLimit,
      figures.slow_percent);
}

// Of each figure the median of the repetitions.
Figures SingleReplay(const std::vector<Replay>& replays, Phase phase) {
  std::vector<Figures> all;
  for (const Replay& replay : replays) {
    std::vector<double> ratios;
    for (const Step& step : replay) {
      if (step.phase == phase) ratios.push_back(step.ratio);
    }
    all.push_back(Describe(ratios));
  }
  const auto median = [&all](double Figures::*field) {
    std::vector<double> values;
    for (const Figures& figures : all) values.push_back(figures.*field);
    return Median(std::move(values));
  };
  return {.steps = median(&Figures::steps),
          .median = median(&Figures::median),
          .p95 = median(&Figures::p95),
          .largest = median(&Figures::largest),
          .slow_percent = median(&Figures::slow_percent)};
}

using Slowest = std::pair<double, std::string>;

void PrintLimit(const char* what, const Slowest& slowest, double median) {
  const double value = slowest.first / median;
  std::printf("slowest while moving, %s: %s\n", what, slowest.second.c_str());
  std::printf("limit %.2f x, value %.2f x, ratio %.2f\n", kLimit, value, value / kLimit);
}

void Report(const std::vector<Replay>& replays) {
  std::vector<std::vector<double>> fastest(kNumPhases);
  std::vector<double> rare;
  Slowest by_median;
  Slowest by_fastest;
  for (const auto& [label, step] : Align(replays)) {
    const double ratio = *std::min_element(step.ratios.begin(), step.ratios.end());
    const bool moving = step.phase == kBehindLoad || step.phase == kBetween;
    if (step.ratios.size() < std::min(kFewestSightings, replays.size())) {
      if (moving) rare.push_back(ratio);
      continue;
    }
    fastest[step.phase].push_back(ratio);
    if (!moving) continue;
    by_fastest = std::max(by_fastest, {ratio, label});
    if (2 * step.ratios.size() > replays.size()) {
      by_median = std::max(by_median, {Median(step.ratios), label});
    }
  }
  for (uint8_t phase = 0; phase < kNumPhases; ++phase) {
    Print(kPhaseNames[phase], "one run", SingleReplay(replays, static_cast<Phase>(phase)));
    Print("", absl::StrCat("fastest of ", replays.size()).c_str(), Describe(fastest[phase]));
  }
  Print("while moving", absl::StrCat("in fewer than ", kFewestSightings, " runs").c_str(),
        Describe(rare));
  PrintLimit("median repetition", by_median, 1);
  PrintLimit("fastest repetition", by_fastest, Median(fastest[kBefore]));
}

void PrintBalance(const ExpertLoads& loads, int32_t step) {
  std::printf("step %5d  busiest rank over the mean, per layer:", step);
  for (const LayerLoad& layer : loads.layers) {
    std::printf(" %.2f", static_cast<double>(layer.max_over_mean));
  }
  std::printf("   layers moved %lld\n", static_cast<long long>(loads.moves.completed));
}

absl::StatusOr<Replay> Run(const Arguments& arguments, const std::string& folder,
                           bool print_balance) {
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
  Replay replay;
  for (int32_t number = 0; number < arguments.steps; ++number) {
    StepPlan plan = workload.Next();
    plan.return_logits = false;
    const auto start = std::chrono::steady_clock::now();
    executor->Submit(std::move(plan));
    ASSIGN_OR_RETURN(const StepResult result, executor->Wait());
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    workload.Take(result);
    Step step{.seconds = elapsed.count(),
              .is_prompt = number % SteadyWorkload::kStepsPerRound == 0,
              .exchanged = result.expert_loads != nullptr};
    // A report tells what its rank loaded before the step.
    for (const RankReport& report : result.ranks) step.loaded.push_back(report.moved_bytes);
    replay.push_back(std::move(step));
    if (print_balance && result.expert_loads != nullptr) PrintBalance(*result.expert_loads, number);
  }
  RETURN_IF_ERROR(executor->Shutdown(absl::Now() + absl::Seconds(10)));
  return replay;
}

absl::Status Bench(const Arguments& arguments, const std::string& folder) {
  RETURN_IF_ERROR(WriteSkewedMoe(arguments.shape, folder));
  std::vector<Replay> replays;
  int64_t most_loaded = 0;
  for (int32_t i = 0; i < arguments.replays; ++i) {
    ASSIGN_OR_RETURN(Replay replay, Run(arguments, folder, i == 0));
    SetPhases(&replay);
    SetRatios(&replay);
    for (const Step& step : replay) {
      most_loaded =
          std::max(most_loaded, *std::max_element(step.loaded.begin(), step.loaded.end()));
    }
    replays.push_back(std::move(replay));
  }
  const std::set<std::string> rounds = CommonProgress(replays);
  for (Replay& replay : replays) SetLabels(rounds, &replay);
  std::printf("decode step before the first load, median of a run: %.3f ms; prompt step: %.3f ms\n",
              MedianBefore(replays.front(), false) * 1e3,
              MedianBefore(replays.front(), true) * 1e3);
  Report(replays);
  std::printf("most bytes that a rank loaded between two steps: %lld\n",
              static_cast<long long>(most_loaded));
  return absl::OkStatus();
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
  if (argc > 7) arguments.replays = Number(argv[7]);
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
