#include "engine/planning/step_model.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/model/moe_comm_choice.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr double kActivationBytes = 2;  // bfloat16

// Expected largest of `ranks` loads of this mean and variance, at most.
double LargestOf(int64_t ranks, double mean, double variance) {
  return mean + std::sqrt(2 * std::log(static_cast<double>(ranks)) * std::max(0.0, variance));
}

double ProjectionPeak(const GpuSpec& gpu, WeightFormat format) {
  if (format == WeightFormat::kFp8 && gpu.fp8_flops > 0) return gpu.fp8_flops;
  if (format == WeightFormat::kInt8 && gpu.int8_flops > 0) return gpu.int8_flops;
  return gpu.bf16_flops;
}

// Keys that a decoded token sees in a layer with this attention window (0: no window).
double DecodeKeys(double context, int32_t window) {
  return window > 0 ? std::min<double>(context, window) : context;
}

// The same of the average token of a prompt: position p sees min(p + 1, window) keys.
double PrefillKeys(double context, int32_t window) {
  const double full = window > 0 ? std::min<double>(context, window) : context;
  return (full * (full + 1) / 2 + (context - full) * full) / context;
}

ModelShard FirstShard(const ModelConfig& config, const LayoutRequest& layout) {
  const absl::StatusOr<Topology> topology = Topology::Create(layout, 0);
  TESSERA_CHECK(topology.ok());
  return MakeShard(config, *topology);
}

}  // namespace

double DistinctExperts(int64_t experts, int64_t per_token, double tokens) {
  const auto count = static_cast<double>(experts);
  return count * (1 - std::pow(1 - static_cast<double>(per_token) / count, tokens));
}

double DistinctRanks(int64_t experts, int64_t per_token, int64_t ranks) {
  const int64_t elsewhere = experts - experts / ranks;
  double none_here = 1;  // all k choices fall on experts of other ranks
  for (int64_t i = 0; i < per_token; ++i) {
    none_here *=
        std::max(0.0, static_cast<double>(elsewhere - i) / static_cast<double>(experts - i));
  }
  return static_cast<double>(ranks) * (1 - none_here);
}

StepModel::StepModel(const ModelConfig& config, const LayoutRequest& layout, const GpuSpec& gpu,
                     WeightFormat format)
    : config_(config),
      layout_(layout),
      gpu_(gpu),
      format_(format),
      shard_(FirstShard(config, layout)),
      slices_(SliceSizes(config, shard_, format)),
      all_to_all_(ChooseAllToAll()) {}

StepEstimate StepModel::Decode(int64_t batch, int64_t context) const {
  const int64_t group = (batch + layout_.data_parallel - 1) / layout_.data_parallel;
  const Tokens tokens{.all = static_cast<double>(batch), .group = static_cast<double>(group)};
  Work work;
  for (const int32_t window : config_.layer_window) {
    AddAttention(tokens, DecodeKeys(static_cast<double>(context), window), true, &work);
  }
  AddExperts(tokens, &work);
  work.bytes += static_cast<double>(slices_.vocab.bytes);
  work.other_flops += 2 * static_cast<double>(slices_.vocab.parameters) * tokens.group;
  return Finish(tokens, work);
}

StepEstimate StepModel::Prefill(int64_t group_tokens, int64_t context) const {
  const auto group = static_cast<double>(group_tokens);
  const Tokens tokens{.all = group * layout_.data_parallel, .group = group};
  Work work;
  for (const int32_t window : config_.layer_window) {
    AddAttention(tokens, PrefillKeys(static_cast<double>(context), window), false, &work);
  }
  AddExperts(tokens, &work);
  return Finish(tokens, work);
}

// One layer. Prefill reads the keys of a prompt once for many tokens: not counted.
void StepModel::AddAttention(const Tokens& tokens, double keys, bool read_kv, Work* work) const {
  const double head_dim = config_.head_dim;
  const double kv_bytes = 2 * shard_.num_kv_heads * head_dim * kActivationBytes;
  work->bytes += static_cast<double>(slices_.attention.bytes);
  if (read_kv) work->bytes += tokens.group * keys * kv_bytes;
  work->projection_flops += 2 * static_cast<double>(slices_.attention.parameters) * tokens.group;
  work->other_flops += 4 * shard_.num_q_heads * head_dim * keys * tokens.group;
}

// The feed-forward parts of all layers.
void StepModel::AddExperts(const Tokens& tokens, Work* work) const {
  const auto moe_layers = static_cast<double>(NumMoeLayers(config_));
  const double dense_layers = config_.num_hidden_layers - moe_layers;
  work->bytes += dense_layers * static_cast<double>(slices_.dense_mlp.bytes);
  work->projection_flops +=
      dense_layers * 2 * static_cast<double>(slices_.dense_mlp.parameters) * tokens.group;
  if (moe_layers == 0) return;

  const int64_t ranks = WorldRing().size;
  double touched = DistinctExperts(config_.num_experts, config_.num_experts_per_tok, tokens.all);
  double rows = tokens.all * config_.num_experts_per_tok;
  if (layout_.expert_parallel) {
    const auto held = static_cast<double>(slices_.num_experts);
    const double share = touched / config_.num_experts;
    touched = std::min(held, LargestOf(ranks, held * share, held * share * (1 - share)));
    const double mean = rows / static_cast<double>(ranks);
    const double most = tokens.all * std::min<double>(held, config_.num_experts_per_tok);
    rows = std::min(most, LargestOf(ranks, mean, mean * (1 - 1.0 / static_cast<double>(ranks))));
  }
  work->bytes += moe_layers * (static_cast<double>(slices_.router.bytes) +
                               touched * static_cast<double>(slices_.expert.bytes));
  work->projection_flops += moe_layers * 2 * static_cast<double>(slices_.expert.parameters) * rows;
  work->other_flops += moe_layers * 2 * static_cast<double>(slices_.router.parameters) * tokens.all;
}

StepEstimate StepModel::Finish(const Tokens& tokens, const Work& work) const {
  StepEstimate estimate;
  estimate.read_seconds = work.bytes / (gpu_.memory_bandwidth * kMemoryShare);
  estimate.math_seconds =
      (work.projection_flops / ProjectionPeak(gpu_, format_) + work.other_flops / gpu_.bf16_flops) /
      kComputeShare;

  const double group_bytes = tokens.group * config_.hidden_size * kActivationBytes;
  const auto moe_layers = static_cast<double>(NumMoeLayers(config_));
  const double layers = config_.num_hidden_layers;
  Traffic traffic = AllReduce(TpRing(), group_bytes) * (2 * (layers - moe_layers));
  if (moe_layers > 0) {
    estimate.all_to_all = all_to_all_;
    traffic += (all_to_all_ ? MoeAllToAll(tokens) : MoeAllReduce(tokens)) * moe_layers;
  }
  estimate.comm_seconds = traffic.seconds;
  estimate.comm_bytes_per_layer_per_token = traffic.bytes / (layers * tokens.all);
  estimate.seconds = std::max(estimate.read_seconds, estimate.math_seconds) + traffic.seconds;
  return estimate;
}

StepModel::Traffic& StepModel::Traffic::operator+=(const Traffic& other) {
  bytes += other.bytes;
  seconds += other.seconds;
  return *this;
}

StepModel::Ring StepModel::TpRing() const {
  const int64_t size = layout_.tensor_parallel;
  return {.size = size, .per_node = std::min<int64_t>(size, gpu_.gpus_per_node)};
}

// Ranks of a data-parallel group lie TP apart.
StepModel::Ring StepModel::DpRing() const {
  const int64_t size = layout_.data_parallel;
  const int64_t in_node = std::max(1, gpu_.gpus_per_node / layout_.tensor_parallel);
  return {.size = size, .per_node = std::min(size, in_node)};
}

StepModel::Ring StepModel::WorldRing() const {
  const int64_t size = int64_t{layout_.tensor_parallel} * layout_.data_parallel;
  return {.size = size, .per_node = std::min<int64_t>(size, gpu_.gpus_per_node)};
}

StepModel::Traffic StepModel::RingPass(const Ring& ring, double bytes) const {
  if (ring.size <= 1) return {};
  const double sent = bytes * static_cast<double>(ring.size - 1) / static_cast<double>(ring.size);
  double bandwidth = gpu_.link_bandwidth;
  double latency = gpu_.nvlink ? kNvlinkLatency : kPcieLatency;
  if (ring.size > ring.per_node) {
    bandwidth = std::min(bandwidth, static_cast<double>(ring.per_node) * gpu_.network_bandwidth);
    latency = kNetworkLatency;
  }
  return {.bytes = sent, .seconds = sent / (bandwidth * kLinkShare) + latency};
}

// A reduce-scatter and an all-gather in one call: the latency counts once.
StepModel::Traffic StepModel::AllReduce(const Ring& ring, double bytes) const {
  if (ring.size <= 1) return {};
  return RingPass(ring, 2 * bytes);
}

// `bytes` leave every rank for the others, evenly.
StepModel::Traffic StepModel::AllToAll(double bytes) const {
  const Ring world = WorldRing();
  if (world.size <= 1) return {};
  const double outside =
      static_cast<double>(world.size - world.per_node) / static_cast<double>(world.size - 1);
  const double inside_seconds = bytes * (1 - outside) / (gpu_.link_bandwidth * kLinkShare);
  const double outside_seconds = bytes * outside / (gpu_.network_bandwidth * kLinkShare);
  const double near_latency = gpu_.nvlink ? kNvlinkLatency : kPcieLatency;
  return {.bytes = bytes,
          .seconds = std::max(inside_seconds, outside_seconds) +
                     (outside > 0 ? kNetworkLatency : near_latency)};
}

StepModel::Traffic StepModel::MoeAllReduce(const Tokens& tokens) const {
  const double token_bytes = config_.hidden_size * kActivationBytes;
  Traffic traffic = AllReduce(TpRing(), tokens.group * token_bytes);
  traffic += RingPass(DpRing(), tokens.all * token_bytes);
  traffic += AllReduce(WorldRing(), tokens.all * token_bytes);
  return traffic;
}

StepModel::Traffic StepModel::MoeAllToAll(const Tokens& tokens) const {
  const double token_bytes = config_.hidden_size * kActivationBytes;
  const int64_t ranks = WorldRing().size;
  const double peers = DistinctRanks(config_.num_experts, config_.num_experts_per_tok, ranks) *
                       static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  const double rows = std::max(1.0, tokens.all / static_cast<double>(ranks)) * peers;
  Traffic traffic = RingPass(TpRing(), tokens.group * token_bytes) * 2;
  traffic += AllToAll(rows * token_bytes) * 2;
  return traffic;
}

bool StepModel::ChooseAllToAll() const {
  if (!layout_.expert_parallel || NumMoeLayers(config_) == 0) return false;
  std::vector<MoeCommCost> costs;
  for (int64_t group_tokens : kMoeCommTokens) {
    const auto group = static_cast<double>(group_tokens);
    const Tokens tokens{.all = group * layout_.data_parallel, .group = group};
    costs.push_back({.tokens = group_tokens,
                     .all_reduce = static_cast<float>(MoeAllReduce(tokens).seconds),
                     .all_to_all = static_cast<float>(MoeAllToAll(tokens).seconds)});
  }
  return PrefersAllToAll(costs);
}

}  // namespace tessera
