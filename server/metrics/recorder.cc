#include "server/metrics/recorder.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/metrics/catalogue.h"
#include "server/version.h"

namespace tessera {
namespace {

using Labels = std::map<std::string, std::string>;

constexpr std::array kFinishReasons = {FinishReason::kStop, FinishReason::kLength,
                                       FinishReason::kToolCalls, FinishReason::kCancelled};

prometheus::Family<prometheus::Counter>& CounterFamily(prometheus::Registry& registry, Metric m) {
  return prometheus::BuildCounter()
      .Name(std::string(SpecOf(m).name))
      .Help(std::string(SpecOf(m).help))
      .Register(registry);
}

prometheus::Family<prometheus::Histogram>& HistogramFamily(prometheus::Registry& registry,
                                                           Metric m) {
  return prometheus::BuildHistogram()
      .Name(std::string(SpecOf(m).name))
      .Help(std::string(SpecOf(m).help))
      .Register(registry);
}

prometheus::Histogram& AddHistogram(prometheus::Family<prometheus::Histogram>& family, Metric m,
                                    const Labels& labels = {}) {
  const auto buckets = SpecOf(m).buckets;
  return family.Add(labels,
                    prometheus::Histogram::BucketBoundaries(buckets.begin(), buckets.end()));
}

prometheus::Histogram& AddHistogram(prometheus::Registry& registry, Metric m) {
  return AddHistogram(HistogramFamily(registry, m), m);
}

prometheus::Gauge& AddGauge(prometheus::Registry& registry, Metric m) {
  return prometheus::BuildGauge()
      .Name(std::string(SpecOf(m).name))
      .Help(std::string(SpecOf(m).help))
      .Register(registry)
      .Add({});
}

// A family whose values are read from elsewhere when the page is rendered.
struct Sample {
  Labels labels;
  double value;
};

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

void AppendEngineFamilies(const EngineStats& s, int32_t block_size,
                          std::vector<prometheus::MetricFamily>* out) {
  const double usage =
      s.kv_blocks_total > 0 ? static_cast<double>(s.kv_blocks_used) / s.kv_blocks_total : 0;
  const auto add = [out](Metric m, double value) { out->push_back(Snapshot(m, value)); };
  add(Metric::kNumRequestsRunning, s.num_running);
  add(Metric::kNumRequestsWaiting, s.num_waiting);
  add(Metric::kNumTokensWaiting, static_cast<double>(s.num_waiting_tokens));
  add(Metric::kKvCacheUsageRatio, usage);
  add(Metric::kPrefixCacheQueries, static_cast<double>(s.prefix_cache_queries));
  add(Metric::kPrefixCacheHits, static_cast<double>(s.prefix_cache_hits));
  add(Metric::kPromptTokens, static_cast<double>(s.prompt_tokens));
  add(Metric::kPromptTokensCached, static_cast<double>(s.prompt_tokens_cached));
  add(Metric::kGenerationTokens, static_cast<double>(s.generation_tokens));
  add(Metric::kReasoningTokens, static_cast<double>(s.reasoning_tokens));
  add(Metric::kPreemptions, static_cast<double>(s.num_preemptions));
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

// The series of one rank.
struct RankCounters {
  prometheus::Counter* compute = nullptr;
  prometheus::Counter* wait = nullptr;
  prometheus::Counter* expert_tokens = nullptr;
  prometheus::Counter* moved_bytes = nullptr;
};

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

// A rank that is lost takes the whole group with it, so all ranks are up or none.
void AppendGroupFamilies(const GroupFacts& group, bool alive,
                         std::vector<prometheus::MetricFamily>* out) {
  std::vector<Sample> up;
  for (int32_t rank = 0; rank < group.num_ranks; ++rank) {
    up.push_back({{{"rank", absl::StrCat(rank)}}, alive ? 1.0 : 0.0});
  }
  out->push_back(Snapshot(Metric::kRankUp, up));
  const char* const invariant = group.gemm == "ours" ? "true" : "false";
  out->push_back(
      Snapshot(Metric::kGemmInfo, {{{{"gemm", group.gemm}, {"batch_invariant", invariant}}, 1}}));
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

}  // namespace

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kToolCalls:
      return "tool_calls";
    case FinishReason::kCancelled:
      break;
  }
  return "abort";
}

std::string_view StatusCodeName(absl::StatusCode code) {
  static const auto* const kNames = new std::map<absl::StatusCode, std::string>([] {
    std::map<absl::StatusCode, std::string> names;
    for (int i = 0; i <= 16; ++i) {
      const auto value = static_cast<absl::StatusCode>(i);
      names[value] = absl::StatusCodeToString(value);
    }
    return names;
  }());
  const auto found = kNames->find(code);
  return found == kNames->end() ? "UNKNOWN" : std::string_view(found->second);
}

struct MetricsRecorder::State {
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& calls = CounterFamily(registry, Metric::kRequests);
  prometheus::Family<prometheus::Counter>& rejected = CounterFamily(registry, Metric::kRejected);
  prometheus::Family<prometheus::Counter>& cancelled = CounterFamily(registry, Metric::kCancelled);
  prometheus::Family<prometheus::Counter>& success =
      CounterFamily(registry, Metric::kRequestSuccess);
  prometheus::Counter& evictions = CounterFamily(registry, Metric::kSlowReaderEvictions).Add({});
  prometheus::Gauge& stream_buffer = AddGauge(registry, Metric::kStreamBufferBytes);
  prometheus::Gauge& weights_loaded = AddGauge(registry, Metric::kWeightsLoadedRatio);
  prometheus::Histogram& first_token = AddHistogram(registry, Metric::kTimeToFirstToken);
  prometheus::Histogram& inter_token = AddHistogram(registry, Metric::kInterTokenLatency);
  prometheus::Histogram& per_output_token = AddHistogram(registry, Metric::kTimePerOutputToken);
  prometheus::Histogram& e2e = AddHistogram(registry, Metric::kE2eLatency);
  prometheus::Histogram& queue = AddHistogram(registry, Metric::kQueueTime);
  prometheus::Histogram& prefill = AddHistogram(registry, Metric::kPrefillTime);
  prometheus::Histogram& decode = AddHistogram(registry, Metric::kDecodeTime);
  prometheus::Histogram& iteration_tokens = AddHistogram(registry, Metric::kIterationTokens);
  prometheus::Family<prometheus::Histogram>& steps =
      HistogramFamily(registry, Metric::kStepDuration);
  prometheus::Histogram& prefill_step =
      AddHistogram(steps, Metric::kStepDuration, {{"phase", "prefill"}});
  prometheus::Histogram& decode_step =
      AddHistogram(steps, Metric::kStepDuration, {{"phase", "decode"}});
  prometheus::Histogram& mixed_step =
      AddHistogram(steps, Metric::kStepDuration, {{"phase", "mixed"}});
  prometheus::Histogram& host_gap = AddHistogram(registry, Metric::kStepHostGap);

  prometheus::Family<prometheus::Counter>& rank_compute =
      CounterFamily(registry, Metric::kRankComputeSeconds);
  prometheus::Family<prometheus::Counter>& rank_wait =
      CounterFamily(registry, Metric::kRankWaitSeconds);
  prometheus::Family<prometheus::Counter>& expert_tokens =
      CounterFamily(registry, Metric::kExpertTokens);
  prometheus::Family<prometheus::Counter>& moved_bytes =
      CounterFamily(registry, Metric::kExpertMovedBytes);
  std::array<prometheus::Histogram*, kNumCollectiveOps> collectives{};

  // The counters of ends and calls, because finding one by its labels takes longer than all else
  // that is counted of a request.
  std::array<prometheus::Counter*, kFinishReasons.size()> finishes{};
  prometheus::Counter& CallsOf(std::string_view method, absl::StatusCode code) {
    absl::MutexLock lock(&mutex);
    prometheus::Counter*& counter = counters_of_calls[{method, code}];
    if (counter == nullptr) {
      counter = &calls.Add(
          {{"method", std::string(method)}, {"code", std::string(StatusCodeName(code))}});
    }
    return *counter;
  }

  void ObserveRank(const RankReport& report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Makes the series of ranks up to this one.
  void AddRanks(int32_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    while (static_cast<int32_t>(ranks.size()) < count) {
      const Labels labels = {{"rank", absl::StrCat(ranks.size())}};
      ranks.push_back({&rank_compute.Add(labels), &rank_wait.Add(labels),
                       &expert_tokens.Add(labels), &moved_bytes.Add(labels)});
    }
  }

  // Under the lock, so that nobody takes the engine away meanwhile.
  void AppendSources(std::vector<prometheus::MetricFamily>* families) const {
    absl::MutexLock lock(&mutex);
    if (sources.engine != nullptr) {
      const EngineStats stats = sources.engine->stats();
      AppendEngineFamilies(stats, sources.block_size, families);
      AppendGroupFamilies(sources.group, stats.alive, families);
    }
    if (expert_loads != nullptr) {
      families->push_back(Snapshot(Metric::kExpertLoadRatio, LoadRatios(*expert_loads)));
      const ExpertMoves& moves = expert_loads->moves;
      families->push_back(
          Snapshot(Metric::kExpertMoves, {{{{"result", "completed"}}, 1.0 * moves.completed},
                                          {{{"result", "failed"}}, 1.0 * moves.failed},
                                          {{{"result", "timed_out"}}, 1.0 * moves.timed_out}}));
      families->push_back(Snapshot(Metric::kExpertPlacementVersion, 1.0 * moves.flips));
    }
    if (sources.active_requests) {
      families->push_back(Snapshot(Metric::kActiveRequests, sources.active_requests()));
    }
    if (sources.large_requests_queued) {
      families->push_back(Snapshot(Metric::kLargeRequestsQueued, sources.large_requests_queued()));
    }
  }

  mutable absl::Mutex mutex;
  Sources sources ABSL_GUARDED_BY(mutex);
  std::map<std::pair<std::string_view, absl::StatusCode>, prometheus::Counter*> counters_of_calls
      ABSL_GUARDED_BY(mutex);
  std::vector<RankCounters> ranks ABSL_GUARDED_BY(mutex);
  std::shared_ptr<const ExpertLoads> expert_loads ABSL_GUARDED_BY(mutex);
};

void MetricsRecorder::State::ObserveRank(const RankReport& report) {
  double wait = 0;
  for (size_t op = 0; op < kNumCollectiveOps; ++op) {
    const double seconds = report.collective_seconds[op];
    wait += seconds;
    if (seconds > 0) collectives[op]->Observe(seconds);
  }
  AddRanks(report.rank + 1);
  const RankCounters& counters = ranks[report.rank];
  if (report.collectives_timed) {
    counters.compute->Increment(std::max(0.0, report.step_seconds - wait));
    counters.wait->Increment(wait);
  }
  counters.expert_tokens->Increment(static_cast<double>(report.expert_rows));
  counters.moved_bytes->Increment(static_cast<double>(report.moved_bytes));
}

MetricsRecorder::MetricsRecorder() : state_(std::make_unique<State>()) {
  // Series exist from the start, so that rates over them are right from the first event on.
  for (const FinishReason reason : kFinishReasons) {
    state_->finishes[static_cast<size_t>(reason)] =
        &state_->success.Add({{"finish_reason", std::string(FinishReasonName(reason))}});
  }
  for (const char* stage : {"prefill", "decode"}) state_->cancelled.Add({{"stage", stage}});
  for (const char* reason :
       {"invalid", "unknown_model", "duplicate_id", "overloaded", "unavailable", "other"}) {
    state_->rejected.Add({{"reason", reason}});
  }
  prometheus::Family<prometheus::Histogram>& collectives =
      HistogramFamily(state_->registry, Metric::kCollectiveSeconds);
  for (size_t op = 0; op < kNumCollectiveOps; ++op) {
    state_->collectives[op] = &AddHistogram(collectives, Metric::kCollectiveSeconds,
                                            {{"op", std::string(kCollectiveOpNames[op])}});
  }
}

MetricsRecorder::~MetricsRecorder() = default;

void MetricsRecorder::CountCall(std::string_view method, absl::StatusCode code) {
  state_->CallsOf(method, code).Increment();
}

void MetricsRecorder::CountRejected(absl::StatusCode code) {
  std::string_view reason = "other";
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      reason = "invalid";
      break;
    case absl::StatusCode::kNotFound:
      reason = "unknown_model";
      break;
    case absl::StatusCode::kAlreadyExists:
      reason = "duplicate_id";
      break;
    case absl::StatusCode::kResourceExhausted:
      reason = "overloaded";
      break;
    case absl::StatusCode::kUnavailable:
      reason = "unavailable";
      break;
    default:
      break;
  }
  state_->rejected.Add({{"reason", std::string(reason)}}).Increment();
}

void MetricsRecorder::CountCancelled(bool had_output) {
  state_->cancelled.Add({{"stage", had_output ? "decode" : "prefill"}}).Increment();
}

void MetricsRecorder::CountFinish(FinishReason reason) {
  state_->finishes[static_cast<size_t>(reason)]->Increment();
}

void MetricsRecorder::CountSlowReaderEviction() { state_->evictions.Increment(); }

void MetricsRecorder::AddStreamBufferBytes(int64_t delta) {
  state_->stream_buffer.Increment(static_cast<double>(delta));
}

void MetricsRecorder::ObserveFirstToken(absl::Duration since_arrival) {
  state_->first_token.Observe(absl::ToDoubleSeconds(since_arrival));
}

void MetricsRecorder::ObserveInterToken(absl::Duration interval) {
  state_->inter_token.Observe(absl::ToDoubleSeconds(interval));
}

void MetricsRecorder::ObserveRequest(const FinishInfo& info) {
  const RequestTiming& t = info.timing;
  const auto observe = [](prometheus::Histogram& histogram, absl::Duration value) {
    histogram.Observe(std::max(0.0, absl::ToDoubleSeconds(value)));
  };
  observe(state_->e2e, t.last_token - t.arrival);
  observe(state_->queue, t.first_scheduled - t.arrival);
  observe(state_->prefill, t.first_token - t.first_scheduled);
  observe(state_->decode, t.last_token - t.first_token);
  if (info.usage.completion_tokens > 1) {
    observe(state_->per_output_token,
            (t.last_token - t.first_token) / (info.usage.completion_tokens - 1));
  }
}

void MetricsRecorder::ObserveStep(const StepEvent& step) {
  state_->iteration_tokens.Observe(step.prefill_tokens + step.decode_tokens);
  prometheus::Histogram& histogram = step.prefill_tokens == 0  ? state_->decode_step
                                     : step.decode_tokens == 0 ? state_->prefill_step
                                                               : state_->mixed_step;
  histogram.Observe(absl::ToDoubleSeconds(step.duration));
  if (!step.after_rest) {
    float gap = 0;
    for (const RankReport& report : step.ranks) gap = std::max(gap, report.host_gap_seconds);
    state_->host_gap.Observe(gap);
  }
  absl::MutexLock lock(&state_->mutex);
  for (const RankReport& report : step.ranks) state_->ObserveRank(report);
  if (step.expert_loads != nullptr) state_->expert_loads = step.expert_loads;
}

void MetricsRecorder::SetWeightsLoaded(double ratio) { state_->weights_loaded.Set(ratio); }

void MetricsRecorder::Attach(Sources sources) {
  absl::MutexLock lock(&state_->mutex);
  state_->sources = std::move(sources);
  if (state_->sources.engine != nullptr) state_->AddRanks(state_->sources.group.num_ranks);
}

std::string MetricsRecorder::Render() const {
  std::vector<prometheus::MetricFamily> families = state_->registry.Collect();
  state_->AppendSources(&families);
  families.push_back(Snapshot(Metric::kBuildInfo, {{{{"version", std::string(kVersion)}}, 1}}));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tessera
