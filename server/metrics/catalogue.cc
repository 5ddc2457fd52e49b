#include "server/metrics/catalogue.h"

#include <array>
#include <cstddef>
#include <initializer_list>

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
constexpr double kLengths[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000,
                               50000, 100000, 200000, 500000, 1000000};
constexpr double kCollective[] = {.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005,
                                  .01, .025, .05, .1, .25, 1, 5};
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
    {Metric::kLargeRequestsQueued,
     kGauge,
     "tessera_large_requests_queued",
     "Calls with a large message that wait for a thread to read it.",
     {}},
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
    {Metric::kStepHostGap, kHistogram, "tessera_step_host_gap_seconds",
     "How long the devices had nothing to do before a step because the host had not given it to "
     "them yet, though there were requests; of the rank that waited longest.",
     kCollective},
    {Metric::kStepGraphs,
     kGauge,
     "tessera_step_graphs",
     "Graphs of decode steps that each rank captured at start, 0 where steps are enqueued.",
     {}},
    {Metric::kStepGraphBytes,
     kGauge,
     "tessera_step_graph_bytes",
     "Device memory that a rank's graphs of decode steps take.",
     {}},
    {Metric::kMoeCommCost,
     kGauge,
     "tessera_moe_comm_cost_seconds",
     "Communication of one MoE layer as --moe-comm=auto measured it at start, by mode and by "
     "tokens of the largest group.",
     {}},
    {Metric::kMoeCommInfo,
     kGauge,
     "tessera_moe_comm_info",
     "Always 1; the label tells the mode that --moe-comm=auto chose for all steps.",
     {}},
    {Metric::kGemmInfo,
     kGauge,
     "tessera_gemm_info",
     "Always 1; the labels tell whose products --gemm chose, and whether a token's bits are the "
     "same in every batch with them.",
     {}},
    {Metric::kWeightsInfo,
     kGauge,
     "tessera_weights_info",
     "Always 1; the labels tell how the checkpoint stores its matrices, how they are kept in "
     "memory "
     "and what quantised ones multiply.",
     {}},
    {Metric::kRankUp, kGauge, "tessera_rank_up", "1 while the rank serves, 0 after a failure.", {}},
    {Metric::kRankComputeSeconds,
     kCounter,
     "tessera_rank_compute_seconds_total",
     "Time of a rank outside collective operations, in steps that timed them: a slow rank has more "
     "than the others.",
     {}},
    {Metric::kRankWaitSeconds,
     kCounter,
     "tessera_rank_wait_seconds_total",
     "Time of a rank in collective operations, waiting for slower ranks included.",
     {}},
    {Metric::kCollectiveSeconds, kHistogram, "tessera_collective_seconds",
     "Time a rank spent in one kind of collective operation in one step, by operation.",
     kCollective},
    {Metric::kExpertTokens,
     kCounter,
     "tessera_expert_tokens_total",
     "Tokens that the experts of a rank computed, once per token and expert.",
     {}},
    {Metric::kExpertLoadRatio,
     kGauge,
     "tessera_expert_load_ratio",
     "Expert tokens of the busiest rank over the mean of the ranks in the last interval, the worst "
     "layer of each eighth of the depth; 1 is even.",
     {}},
    {Metric::kExpertMoves,
     kCounter,
     "tessera_expert_moves_total",
     "Layers whose experts were to move to other ranks, by result: completed, failed, timed_out.",
     {}},
    {Metric::kExpertPlacementVersion,
     kGauge,
     "tessera_expert_placement_version",
     "Switches of a layer to another placement of its experts since the start.",
     {}},
    {Metric::kExpertMovedBytes,
     kCounter,
     "tessera_expert_moved_bytes_total",
     "Expert weights that a rank loaded because experts moved to it.",
     {}},
    {Metric::kWeightsLoadedRatio,
     kGauge,
     "tessera_weights_loaded_ratio",
     "Share of the weights that is loaded, 0 to 1.",
     {}},
    {Metric::kReady, kGauge, "tessera_ready", "1 while /readyz says yes.", {}},
    {Metric::kUnready,
     kGauge,
     "tessera_unready",
     "1 for the reason why /readyz says no: loading, failed, draining, saturated, not_accepting.",
     {}},
    {Metric::kLimit,
     kGauge,
     "tessera_limit",
     "What this server is limited to, by the option that sets it.",
     {}},
    {Metric::kCertificateExpiry,
     kGauge,
     "tessera_certificate_expiry_timestamp_seconds",
     "When the first of the certificates that the server shows expires, in seconds since 1970; "
     "+Inf "
     "without TLS.",
     {}},
    {Metric::kAuthFailures,
     kCounter,
     "tessera_auth_failures_total",
     "Calls refused for their API key, by reason: missing, malformed, unknown, or forbidden: a key "
     "that is not good for this call.",
     {}},
    {Metric::kTenantRequests,
     kCounter,
     "tessera_tenant_requests_total",
     "Generations of a tenant that its limits let in.",
     {}},
    {Metric::kTenantTokens,
     kCounter,
     "tessera_tenant_tokens_total",
     "Tokens of a tenant by kind: prompt or generation.",
     {}},
    {Metric::kTenantRefused,
     kCounter,
     "tessera_tenant_refused_total",
     "Generations refused by a limit of their tenant: streams, requests or tokens.",
     {}},
    {Metric::kTenantOpenRequests,
     kGauge,
     "tessera_tenant_open_requests",
     "Open generations of a tenant.",
     {}},
    {Metric::kTenantWaitingRequests,
     kGauge,
     "tessera_tenant_waiting_requests",
     "Generations of a tenant that wait for their first step.",
     {}},
    {Metric::kTenantWaitingTokens,
     kGauge,
     "tessera_tenant_waiting_tokens",
     "Prompt tokens of a tenant's generations that wait.",
     {}},
    {Metric::kLogLinesDropped,
     kCounter,
     "tessera_log_lines_dropped_total",
     "Log lines that were lost because nobody read stderr in time.",
     {}},
    {Metric::kRequestPromptTokens, kHistogram, "tessera_request_prompt_tokens",
     "Prompt tokens of a request that ended well.", kLengths},
    {Metric::kRequestGenerationTokens, kHistogram, "tessera_request_generation_tokens",
     "Generated tokens of a request that ended well, of all its choices.", kLengths},
    {Metric::kInferenceTime, kHistogram, "tessera_request_inference_time_seconds",
     "From the first step of a request to its last token.", kEndToEnd},
    {Metric::kProcessCpuSeconds,
     kCounter,
     "process_cpu_seconds_total",
     "Processor time of this process, of users and system.",
     {}},
    {Metric::kProcessResidentBytes,
     kGauge,
     "process_resident_memory_bytes",
     "Memory of this process that is in RAM.",
     {}},
    {Metric::kProcessVirtualBytes,
     kGauge,
     "process_virtual_memory_bytes",
     "Address space of this process.",
     {}},
    {Metric::kProcessOpenFiles, kGauge, "process_open_fds", "Open files and connections.", {}},
    {Metric::kProcessMaxFiles, kGauge, "process_max_fds", "Files that may be open.", {}},
    {Metric::kProcessThreads, kGauge, "process_threads", "Threads of this process.", {}},
    {Metric::kProcessStartTime,
     kGauge,
     "process_start_time_seconds",
     "When this process began, in seconds since 1970.",
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

namespace {

struct OtherName {
  std::string_view ours;
  std::string_view theirs;
};

// What vLLM calls otherwise.
constexpr OtherName kVllmNames[] = {
    {"tessera_kv_cache_usage_ratio", "kv_cache_usage_perc"},
    {"tessera_iteration_tokens", "iteration_tokens_total"},
};

std::string Joined(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text += part;
  return text;
}

}  // namespace

std::string ShownName(std::string_view name, std::string_view prefix) {
  constexpr std::string_view kPrefix = "tessera_";
  if (prefix == "tessera" || name.substr(0, kPrefix.size()) != kPrefix) return std::string(name);
  if (prefix != "vllm") return Joined({prefix, "_", name.substr(kPrefix.size())});
  for (const OtherName& other : kVllmNames) {
    if (other.ours == name) return Joined({"vllm:", other.theirs});
  }
  return Joined({"vllm:", name.substr(kPrefix.size())});
}

}  // namespace tessera
