// Every metric of the server: name, help text, kind and buckets in one table. Names, units and
// buckets equal vLLM's where it has the metric, so that dashboards carry over.
#ifndef TESSERA_SERVER_METRICS_CATALOGUE_H_
#define TESSERA_SERVER_METRICS_CATALOGUE_H_

#include <cstdint>
#include <span>
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

}  // namespace tessera

#endif  // TESSERA_SERVER_METRICS_CATALOGUE_H_
