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
#include "server/metrics/snapshots.h"
#include "server/version.h"

namespace tessera {
namespace {

using Labels = std::map<std::string, std::string>;

constexpr std::array kFinishReasons = {FinishReason::kStop, FinishReason::kLength,
                                       FinishReason::kToolCalls, FinishReason::kCancelled};

// Of the service tessera.v1.Inference, then what generates over HTTP.
constexpr std::string_view kMethods[] = {
    "Generate", "StreamGenerate", "Tokenize",        "Detokenize",  "GetModelInfo", "GetServerInfo",
    "GetLoad",  "Abort",          "ChatCompletions", "Completions", "Responses",    "Messages"};
constexpr int kNumCodes = 17;  // gRPC's

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

// What tenants have waiting. Who waits has a key, and is one of `tenants`.
void AppendBacklogs(const std::vector<TenantFacts>& tenants,
                    const std::vector<TenantBacklog>& backlogs, Families* families) {
  std::map<std::string_view, TenantBacklog> by_name;
  for (const TenantBacklog& backlog : backlogs) by_name[backlog.tenant] = backlog;
  std::vector<Sample> requests;
  std::vector<Sample> tokens;
  for (const TenantFacts& tenant : tenants) {
    const TenantBacklog& backlog = by_name[tenant.name];
    const Labels name = {{"tenant", tenant.name}};
    requests.push_back({name, static_cast<double>(backlog.requests)});
    tokens.push_back({name, static_cast<double>(backlog.tokens)});
  }
  families->push_back(Snapshot(Metric::kTenantWaitingRequests, requests));
  families->push_back(Snapshot(Metric::kTenantWaitingTokens, tokens));
}

void AppendTenants(const std::vector<TenantFacts>& tenants,
                   const std::vector<TenantBacklog>& backlogs, Families* families) {
  std::vector<Sample> requests;
  std::vector<Sample> tokens;
  std::vector<Sample> refused;
  std::vector<Sample> open;
  for (const TenantFacts& tenant : tenants) {
    const Labels name = {{"tenant", tenant.name}};
    const auto with = [&](const char* label, const std::string& value) {
      Labels labels = name;
      labels[label] = value;
      return labels;
    };
    requests.push_back({name, static_cast<double>(tenant.requests)});
    open.push_back({name, static_cast<double>(tenant.open)});
    tokens.push_back({with("kind", "prompt"), static_cast<double>(tenant.prompt_tokens)});
    tokens.push_back({with("kind", "generation"), static_cast<double>(tenant.generation_tokens)});
    for (const auto& [limit, count] : tenant.refused) {
      refused.push_back({with("limit", limit), static_cast<double>(count)});
    }
  }
  families->push_back(Snapshot(Metric::kTenantRequests, requests));
  families->push_back(Snapshot(Metric::kTenantTokens, tokens));
  families->push_back(Snapshot(Metric::kTenantRefused, refused));
  families->push_back(Snapshot(Metric::kTenantOpenRequests, open));
  AppendBacklogs(tenants, backlogs, families);
}

// The series of one rank.
struct RankCounters {
  prometheus::Counter* compute = nullptr;
  prometheus::Counter* wait = nullptr;
  prometheus::Counter* expert_tokens = nullptr;
  prometheus::Counter* moved_bytes = nullptr;
};

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
    for (int i = 0; i < kNumCodes; ++i) {
      const auto value = static_cast<absl::StatusCode>(i);
      names[value] = absl::StatusCodeToString(value);
    }
    return names;
  }());
  const auto found = kNames->find(code);
  return found == kNames->end() ? "UNKNOWN" : std::string_view(found->second);
}

struct MetricsRecorder::State {
  explicit State(MetricsOptions metrics_options) : options(std::move(metrics_options)) {}

  const MetricsOptions options;
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
  prometheus::Histogram& inference = AddHistogram(registry, Metric::kInferenceTime);
  prometheus::Histogram& prompt_tokens = AddHistogram(registry, Metric::kRequestPromptTokens);
  prometheus::Histogram& generation_tokens =
      AddHistogram(registry, Metric::kRequestGenerationTokens);
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
  std::array<prometheus::Counter*, kAuthFailureReasons.size()> auth_failures{};
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
  void AppendSources(Families* families) const;

  mutable absl::Mutex mutex;
  Sources sources ABSL_GUARDED_BY(mutex);
  std::map<std::pair<std::string_view, absl::StatusCode>, prometheus::Counter*> counters_of_calls
      ABSL_GUARDED_BY(mutex);
  std::vector<RankCounters> ranks ABSL_GUARDED_BY(mutex);
  std::shared_ptr<const ExpertLoads> expert_loads ABSL_GUARDED_BY(mutex);
  EngineStats last_stats ABSL_GUARDED_BY(mutex);  // of an engine that is gone
  std::function<std::string_view()> readiness ABSL_GUARDED_BY(mutex);
  std::function<absl::Time()> certificate_expiry ABSL_GUARDED_BY(mutex);
  std::function<std::vector<TenantFacts>()> tenants ABSL_GUARDED_BY(mutex);
};

void MetricsRecorder::State::AppendSources(Families* families) const {
  const auto read = [families](Metric m, const auto& source) {
    if (source) families->push_back(Snapshot(m, static_cast<double>(source())));
  };
  absl::MutexLock lock(&mutex);
  if (sources.engine != nullptr) {
    const EngineStats stats = sources.engine->stats();
    AppendEngineFamilies(stats, sources.block_size, families);
    AppendGroupFamilies(sources.group, stats.alive, families);
  } else {
    AppendEngineCounters(last_stats, families);
  }
  if (expert_loads != nullptr) AppendExpertFamilies(*expert_loads, families);
  read(Metric::kActiveRequests, sources.active_requests);
  read(Metric::kLargeRequestsQueued, sources.large_requests_queued);
  std::vector<Sample> limits;
  for (const auto& [option, value] : sources.limits) limits.push_back({{{"limit", option}}, value});
  if (!limits.empty()) families->push_back(Snapshot(Metric::kLimit, limits));
  if (readiness) AppendReadiness(readiness(), families);
  if (tenants) {
    const auto backlogs =
        sources.engine != nullptr ? sources.engine->Backlogs() : std::vector<TenantBacklog>();
    AppendTenants(tenants(), backlogs, families);
  }
  const absl::Time expiry = certificate_expiry ? certificate_expiry() : absl::InfiniteFuture();
  families->push_back(
      Snapshot(Metric::kCertificateExpiry, absl::ToDoubleSeconds(expiry - absl::UnixEpoch())));
}

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

MetricsRecorder::MetricsRecorder(MetricsOptions options)
    : state_(std::make_unique<State>(std::move(options))) {
  // Series exist from the start, so that rates over them are right from the first event on.
  for (const std::string_view method : kMethods) {
    for (int code = 0; code < kNumCodes; ++code) {
      state_->CallsOf(method, static_cast<absl::StatusCode>(code));
    }
  }
  for (const FinishReason reason : kFinishReasons) {
    state_->finishes[static_cast<size_t>(reason)] =
        &state_->success.Add({{"finished_reason", std::string(FinishReasonName(reason))}});
  }
  auto& auth_failures = CounterFamily(state_->registry, Metric::kAuthFailures);
  for (size_t i = 0; i < kAuthFailureReasons.size(); ++i) {
    state_->auth_failures[i] =
        &auth_failures.Add({{"reason", std::string(kAuthFailureReasons[i])}});
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
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      reason = "unauthorized";
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

void MetricsRecorder::CountAuthFailure(size_t reason) {
  state_->auth_failures[reason]->Increment();
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
  observe(state_->inference, t.last_token - t.first_scheduled);
  state_->prompt_tokens.Observe(info.usage.prompt_tokens);
  state_->generation_tokens.Observe(info.usage.completion_tokens);
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
  const Engine* const before = state_->sources.engine;
  // Counters never fall, also while the last scrape of a server that stops is answered.
  if (before != nullptr && sources.engine == nullptr) state_->last_stats = before->stats();
  state_->sources = std::move(sources);
  if (state_->sources.engine != nullptr) state_->AddRanks(state_->sources.group.num_ranks);
}

void MetricsRecorder::SetReadiness(std::function<std::string_view()> readiness) {
  absl::MutexLock lock(&state_->mutex);
  state_->readiness = std::move(readiness);
}

void MetricsRecorder::SetTenants(std::function<std::vector<TenantFacts>()> tenants) {
  absl::MutexLock lock(&state_->mutex);
  state_->tenants = std::move(tenants);
}

void MetricsRecorder::SetCertificateExpiry(std::function<absl::Time()> expiry) {
  absl::MutexLock lock(&state_->mutex);
  state_->certificate_expiry = std::move(expiry);
}

std::string MetricsRecorder::Render() const {
  Families families = state_->registry.Collect();
  state_->AppendSources(&families);
  AppendProcessFamilies(&families);
  const MetricsOptions& options = state_->options;
  if (options.log_lines_dropped) {
    families.push_back(
        Snapshot(Metric::kLogLinesDropped, static_cast<double>(options.log_lines_dropped())));
  }
  families.push_back(Snapshot(Metric::kBuildInfo, {{{{"version", std::string(kVersion)}}, 1}}));
  for (prometheus::MetricFamily& family : families) {
    family.name = ShownName(family.name, options.prefix);
    if (options.model_name.empty()) continue;
    for (prometheus::ClientMetric& metric : family.metric) {
      metric.label.push_back({"model_name", options.model_name});
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tessera
