// Every metric of the server: name, help text, kind and buckets in one table. Names, units and
// buckets equal vLLM's where it has the metric, so that dashboards carry over after a change of the
// prefix, or with --metrics-prefix vllm.
#ifndef TESSERA_SERVER_METRICS_CATALOGUE_H_
#define TESSERA_SERVER_METRICS_CATALOGUE_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tessera {

enum class Metric : uint8_t {
  kNumRequestsRunning,
  kNumRequestsWaiting,
  kNumTokensWaiting,
  kKvCacheUsageRatio,
  kKvBlocks,
  kPrefixCacheQueries,
  kPrefixCacheHits,
  kPromptTokens,
  kPromptTokensCached,
  kGenerationTokens,
  kReasoningTokens,
  kPreemptions,
  kStepAge,
  kEngineUp,
  kRequestSuccess,
  kRequests,
  kRejected,
  kCancelled,
  kSlowReaderEvictions,
  kStreamBufferBytes,
  kActiveRequests,
  kLargeRequestsQueued,
  kTimeToFirstToken,
  kInterTokenLatency,
  kTimePerOutputToken,
  kE2eLatency,
  kQueueTime,
  kPrefillTime,
  kDecodeTime,
  kIterationTokens,
  kStepDuration,
  kStepHostGap,
  kStepGraphs,
  kStepGraphBytes,
  kMoeCommCost,
  kMoeCommInfo,
  kGemmInfo,
  kWeightsInfo,
  kRankUp,
  kRankComputeSeconds,
  kRankWaitSeconds,
  kCollectiveSeconds,
  kExpertTokens,
  kExpertLoadRatio,
  kExpertMoves,
  kExpertPlacementVersion,
  kExpertMovedBytes,
  kWeightsLoadedRatio,
  kReady,
  kUnready,
  kLimit,
  kCertificateExpiry,
  kAuthFailures,
  kTenantRequests,
  kTenantTokens,
  kTenantRefused,
  kTenantOpenRequests,
  kTenantWaitingRequests,
  kTenantWaitingTokens,
  kLogLinesDropped,
  kRequestPromptTokens,
  kRequestGenerationTokens,
  kInferenceTime,
  kProcessCpuSeconds,
  kProcessResidentBytes,
  kProcessVirtualBytes,
  kProcessOpenFiles,
  kProcessMaxFiles,
  kProcessThreads,
  kProcessStartTime,
  kBuildInfo,
  kCacheConfigInfo,
  kCount,
};

enum class MetricKind : uint8_t { kCounter, kGauge, kHistogram };

struct MetricSpec {
  Metric metric;
  MetricKind kind;
  std::string_view name;
  std::string_view help;
  std::span<const double> buckets;  // histograms only: upper bounds, ascending
};

// Indexed by Metric.
const MetricSpec& SpecOf(Metric metric);

// The name under which a metric is shown: with `prefix` in place of "tessera". "vllm" gives vLLM's
// own names, which have a colon behind the prefix. The names of process_… are everybody's.
std::string ShownName(std::string_view name, std::string_view prefix);

// Why callers are refused, in the order of tessera_auth_failures_total's series.
inline constexpr std::array<std::string_view, 4> kAuthFailureReasons = {"missing", "malformed",
                                                                        "unknown", "forbidden"};

// Why a server is not ready, in the order of tessera_unready's series.
inline constexpr std::array<std::string_view, 5> kUnreadyReasons = {"loading", "failed", "draining",
                                                                    "saturated", "not_accepting"};

}  // namespace tessera

#endif  // TESSERA_SERVER_METRICS_CATALOGUE_H_
