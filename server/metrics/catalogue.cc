#include "server/metrics/catalogue.h"

#include <array>
#include <cstddef>

#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// clang-format off
constexpr double kFirstToken[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5,
                                  7.5, 10, 20, 40, 80, 160, 640, 2560};
constexpr double kInterToken[] = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5,
                                  7.5, 10, 20, 40, 80};
constexpr double kEndToEnd[] = {.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120,
                                240, 480, 960, 1920, 7680};
constexpr double kTokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
constexpr double kStep[] = {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10};
// clang-format on

constexpr MetricKind kCounter = MetricKind::kCounter;
constexpr MetricKind kGauge = MetricKind::kGauge;
constexpr MetricKind kHistogram = MetricKind::kHistogram;

constexpr std::array<MetricSpec, static_cast<size_t>(Metric::kCount)> kCatalogue = {{
    {Metric::kNumRequestsRunning,
     kGauge,
     "tessera_num_requests_running",
     "Sequences in the running batch.",
     {}},
    {Metric::kNumRequestsWaiting,
     kGauge,
     "tessera_num_requests_waiting",
     "Requests waiting for admission.",
     {}},
    {Metric::kNumTokensWaiting,
     kGauge,
     "tessera_num_tokens_waiting",
     "Prompt tokens of the waiting requests.",
     {}},
    {Metric::kKvCacheUsageRatio,
     kGauge,
     "tessera_kv_cache_usage_ratio",
     "Share of the KV blocks that running requests use, 0 to 1.",
     {}},
    {Metric::kKvBlocks,
     kGauge,
     "tessera_kv_blocks",
     "KV blocks by state: used by requests, cached for reuse, free.",
     {}},
    {Metric::kPrefixCacheQueries,
     kCounter,
     "tessera_prefix_cache_queries_total",
     "Prompt tokens looked up in the prefix cache.",
     {}},
    {Metric::kPrefixCacheHits,
     kCounter,
     "tessera_prefix_cache_hits_total",
     "Prompt tokens found in the prefix cache.",
     {}},
    {Metric::kPromptTokens,
     kCounter,
     "tessera_prompt_tokens_total",
     "Prompt tokens of admitted requests.",
     {}},
    {Metric::kPromptTokensCached,
     kCounter,
     "tessera_prompt_tokens_cached_total",
     "Prompt tokens that were served from the prefix cache.",
     {}},
    {Metric::kGenerationTokens,
     kCounter,
     "tessera_generation_tokens_total",
     "Generated tokens, reasoning included.",
     {}},
    {Metric::kReasoningTokens,
     kCounter,
     "tessera_reasoning_tokens_total",
     "Generated tokens that were reasoning.",
     {}},
    {Metric::kPreemptions,
     kCounter,
     "tessera_num_preemptions_total",
     "Sequences whose blocks were taken away and recomputed later.",
     {}},
    {Metric::kStepAge,
     kGauge,
     "tessera_step_age_seconds",
     "Time since the last finished step while work is pending, 0 when idle.",
     {}},
    {Metric::kEngineUp,
     kGauge,
     "tessera_engine_up",
     "1 while the engine works, 0 after it failed.",
     {}},
    {Metric::kRequestSuccess,
     kCounter,
     "tessera_request_success_total",
     "Choices that were generated to their end, by finish reason.",
     {}},
    {Metric::kRequests,
     kCounter,
     "tessera_requests_total",
     "Finished calls by method and gRPC status code.",
     {}},
    {Metric::kRejected,
     kCounter,
     "tessera_rejected_total",
     "Generations refused before they reached the queue, by reason.",
     {}},
    {Metric::kCancelled,
     kCounter,
     "tessera_cancelled_total",
     "Generations that the client or a deadline ended, by stage.",
     {}},
    {Metric::kSlowReaderEvictions,
     kCounter,
     "tessera_slow_reader_evictions_total",
     "Streams ended because the client did not read.",
     {}},
    {Metric::kStreamBufferBytes,
     kGauge,
     "tessera_stream_buffer_bytes",
     "Output that waits for clients to read it.",
     {}},
    {Metric::kActiveRequests, kGauge, "tessera_active_requests", "Open generation calls.", {}},
    {Metric::kTimeToFirstToken, kHistogram, "tessera_time_to_first_token_seconds",
     "From the arrival of a request to its first token.", kFirstToken},
    {Metric::kInterTokenLatency, kHistogram, "tessera_inter_token_latency_seconds",
     "Between consecutive tokens of a choice.", kInterToken},
    {Metric::kTimePerOutputToken, kHistogram, "tessera_request_time_per_output_token_seconds",
     "Mean time per token after the first, one value per request.", kInterToken},
    {Metric::kE2eLatency, kHistogram, "tessera_e2e_request_latency_seconds",
     "From the arrival of a request to its end.", kEndToEnd},
    {Metric::kQueueTime, kHistogram, "tessera_request_queue_time_seconds",
     "From the arrival of a request to its first step.", kEndToEnd},
    {Metric::kPrefillTime, kHistogram, "tessera_request_prefill_time_seconds",
     "From the first step of a request to its first token.", kEndToEnd},
    {Metric::kDecodeTime, kHistogram, "tessera_request_decode_time_seconds",
     "From the first token of a request to its last.", kEndToEnd},
    {Metric::kIterationTokens, kHistogram, "tessera_iteration_tokens", "Tokens per step.", kTokens},
    {Metric::kStepDuration, kHistogram, "tessera_step_duration_seconds",
     "Time of a step by phase: prefill, decode or mixed.", kStep},
    {Metric::kMoeCommCost,
     kGauge,
     "tessera_moe_comm_cost_seconds",
     "Communication of one MoE layer as --moe-comm=auto measured it at start, by mode and by "
     "tokens "
     "of the largest group.",
     {}},
    {Metric::kWeightsLoadedRatio,
     kGauge,
     "tessera_weights_loaded_ratio",
     "Share of the weights that is loaded, 0 to 1.",
     {}},
    {Metric::kBuildInfo,
     kGauge,
     "tessera_build_info",
     "Always 1; the labels tell the version.",
     {}},
    {Metric::kCacheConfigInfo,
     kGauge,
     "tessera_cache_config_info",
     "Always 1; the labels tell the shape of the KV cache.",
     {}},
}};

}  // namespace

const MetricSpec& SpecOf(Metric metric) {
  const MetricSpec& spec = kCatalogue[static_cast<size_t>(metric)];
  TESSERA_CHECK(spec.metric == metric);
  return spec;
}

}  // namespace tessera
