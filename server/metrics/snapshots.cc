#include "server/metrics/snapshots.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "server/metrics/process_facts.h"

namespace tessera {
namespace {

// The worst layer of every eighth of the depth; an eighth without MoE layers has no sample.
std::vector<Sample> LoadRatios(const ExpertLoads& loads) {
  constexpr size_t kBuckets = 8;
  std::array<float, kBuckets> worst{};
  for (size_t i = 0; i < loads.layers.size(); ++i) {
    float& ratio = worst[i * kBuckets / loads.layers.size()];
    ratio = std::max(ratio, loads.layers[i].max_over_mean);
  }
  std::vector<Sample> samples;
  for (size_t i = 0; i < kBuckets; ++i) {
    if (worst[i] > 0) samples.push_back({{{"layer_bucket", absl::StrCat(i + 1, "/8")}}, worst[i]});
  }
  return samples;
}

}  // namespace

prometheus::MetricFamily Snapshot(Metric m, const std::vector<Sample>& samples) {
  const MetricSpec& spec = SpecOf(m);
  prometheus::MetricFamily family;
  family.name = spec.name;
  family.help = spec.help;
  const bool is_counter = spec.kind == MetricKind::kCounter;
  family.type = is_counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
  for (const Sample& sample : samples) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
    (is_counter ? metric.counter.value : metric.gauge.value) = sample.value;
  }
  return family;
}

prometheus::MetricFamily Snapshot(Metric m, double value) { return Snapshot(m, {{{}, value}}); }

void AppendEngineCounters(const EngineStats& s, Families* out) {
  const auto add = [out](Metric m, double value) { out->push_back(Snapshot(m, value)); };
  add(Metric::kPrefixCacheQueries, static_cast<double>(s.prefix_cache_queries));
  add(Metric::kPrefixCacheHits, static_cast<double>(s.prefix_cache_hits));
  add(Metric::kPromptTokens, static_cast<double>(s.prompt_tokens));
  add(Metric::kPromptTokensCached, static_cast<double>(s.prompt_tokens_cached));
  add(Metric::kGenerationTokens, static_cast<double>(s.generation_tokens));
  add(Metric::kReasoningTokens, static_cast<double>(s.reasoning_tokens));
  add(Metric::kPreemptions, static_cast<double>(s.num_preemptions));
}

void AppendEngineFamilies(const EngineStats& s, int32_t block_size, Families* out) {
  AppendEngineCounters(s, out);
  const double usage =
      s.kv_blocks_total > 0 ? static_cast<double>(s.kv_blocks_used) / s.kv_blocks_total : 0;
  const auto add = [out](Metric m, double value) { out->push_back(Snapshot(m, value)); };
  add(Metric::kNumRequestsRunning, s.num_running);
  add(Metric::kNumRequestsWaiting, s.num_waiting);
  add(Metric::kNumTokensWaiting, static_cast<double>(s.num_waiting_tokens));
  add(Metric::kKvCacheUsageRatio, usage);
  add(Metric::kStepGraphs, s.step_graphs);
  add(Metric::kStepGraphBytes, static_cast<double>(s.step_graph_bytes));
  add(Metric::kStepAge, absl::ToDoubleSeconds(s.step_age));
  add(Metric::kEngineUp, s.alive ? 1 : 0);
  out->push_back(Snapshot(Metric::kKvBlocks, {{{{"state", "used"}}, 1.0 * s.kv_blocks_used},
                                              {{{"state", "cached"}}, 1.0 * s.kv_blocks_cached},
                                              {{{"state", "free"}}, 1.0 * s.kv_blocks_free}}));
  out->push_back(Snapshot(
      Metric::kCacheConfigInfo,
      {{{{"block_size", absl::StrCat(block_size)}, {"num_blocks", absl::StrCat(s.kv_blocks_total)}},
        1}}));
}

// A rank that is lost takes the whole group with it, so all ranks are up or none.
void AppendGroupFamilies(const GroupFacts& group, bool alive, Families* out) {
  std::vector<Sample> up;
  for (int32_t rank = 0; rank < group.num_ranks; ++rank) {
    up.push_back({{{"rank", absl::StrCat(rank)}}, alive ? 1.0 : 0.0});
  }
  out->push_back(Snapshot(Metric::kRankUp, up));
  const char* const invariant = group.gemm == "ours" ? "true" : "false";
  out->push_back(
      Snapshot(Metric::kGemmInfo, {{{{"gemm", group.gemm}, {"batch_invariant", invariant}}, 1}}));
  out->push_back(Snapshot(Metric::kWeightsInfo, {{{{"stored", group.weights.stored},
                                                   {"kept", group.weights.kept},
                                                   {"activations", group.weights.activations}},
                                                  1}}));
  std::vector<Sample> costs;
  for (const MoeCommCost& cost : group.moe_comm.costs) {
    const std::string tokens = absl::StrCat(cost.tokens);
    costs.push_back({{{"mode", "allreduce"}, {"tokens", tokens}}, cost.all_reduce});
    costs.push_back({{{"mode", "alltoall"}, {"tokens", tokens}}, cost.all_to_all});
  }
  if (costs.empty()) return;
  out->push_back(Snapshot(Metric::kMoeCommCost, costs));
  const char* const mode = group.moe_comm.all_to_all ? "alltoall" : "allreduce";
  out->push_back(Snapshot(Metric::kMoeCommInfo, {{{{"mode", mode}}, 1}}));
}

void AppendExpertFamilies(const ExpertLoads& loads, Families* out) {
  out->push_back(Snapshot(Metric::kExpertLoadRatio, LoadRatios(loads)));
  const ExpertMoves& moves = loads.moves;
  out->push_back(
      Snapshot(Metric::kExpertMoves, {{{{"result", "completed"}}, 1.0 * moves.completed},
                                      {{{"result", "failed"}}, 1.0 * moves.failed},
                                      {{{"result", "timed_out"}}, 1.0 * moves.timed_out}}));
  out->push_back(Snapshot(Metric::kExpertPlacementVersion, 1.0 * moves.flips));
}

void AppendProcessFamilies(Families* out) {
  const ProcessFacts facts = ReadProcessFacts();
  const auto add = [out](Metric m, double value) { out->push_back(Snapshot(m, value)); };
  add(Metric::kProcessCpuSeconds, facts.cpu_seconds);
  add(Metric::kProcessResidentBytes, facts.resident_bytes);
  add(Metric::kProcessVirtualBytes, facts.virtual_bytes);
  add(Metric::kProcessOpenFiles, facts.open_files);
  add(Metric::kProcessMaxFiles, facts.max_files);
  add(Metric::kProcessThreads, facts.threads);
  add(Metric::kProcessStartTime, facts.start_time);
}

void AppendReadiness(std::string_view reason, Families* out) {
  out->push_back(Snapshot(Metric::kReady, reason.empty() ? 1 : 0));
  std::vector<Sample> samples;
  for (const std::string_view name : kUnreadyReasons) {
    samples.push_back({{{"reason", std::string(name)}}, name == reason ? 1.0 : 0.0});
  }
  out->push_back(Snapshot(Metric::kUnready, samples));
}

}  // namespace tessera
