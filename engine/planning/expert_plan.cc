#include "engine/planning/expert_plan.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/files/json_document.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "parallel/experts/placement.h"

namespace tessera {
namespace {

namespace dom = simdjson::dom;

constexpr int64_t kMaxStatsBytes = 64 << 20;

absl::Status BadFile(std::string_view source, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(source), ": ", why));
}

absl::StatusOr<std::vector<double>> LayerCounts(dom::element layer, int64_t expected) {
  dom::array list;
  if (layer.get(list) != simdjson::SUCCESS) {
    return absl::InvalidArgumentError("is no list of counts");
  }
  std::vector<double> counts;
  for (const dom::element count : list) {
    if (count.get(counts.emplace_back()) != simdjson::SUCCESS) {
      return absl::InvalidArgumentError("has a count that is no number");
    }
    if (!(counts.back() >= 0 && counts.back() <= 1e18)) {
      return absl::InvalidArgumentError("has a count outside 0 to 1e18");
    }
  }
  if (static_cast<int64_t>(counts.size()) == expected) return counts;
  return absl::InvalidArgumentError(
      absl::StrCat("has ", counts.size(), " counts; the model has ", expected, " experts there"));
}

double MaxOverMean(const Placement& placement, const std::vector<double>& loads) {
  return 1 / BalanceRatio(PredictRankLoads(placement, loads));
}

absl::Status CheckRanks(const ModelConfig& config, int32_t num_ranks, int32_t replicas_per_rank) {
  if (!config.has_moe_layers()) {
    return absl::InvalidArgumentError("a dense model has no experts to place");
  }
  if (num_ranks < 1 || config.num_experts % num_ranks != 0) {
    std::vector<int32_t> sizes;
    for (int32_t size = 1; size <= config.num_experts; ++size) {
      if (config.num_experts % size == 0) sizes.push_back(size);
    }
    return absl::InvalidArgumentError(
        absl::StrCat(config.num_experts, " experts cannot be spread evenly over ", num_ranks,
                     " ranks; sizes that work: ", absl::StrJoin(sizes, ", ")));
  }
  const int32_t spare = config.num_experts - config.num_experts / num_ranks;
  if (replicas_per_rank < 0 || replicas_per_rank > spare) {
    return absl::InvalidArgumentError(absl::StrCat(replicas_per_rank, " replicas per rank: with ",
                                                   config.num_experts, " experts on ", num_ranks,
                                                   " ranks there is room for 0 to ", spare,
                                                   ", because no rank holds an expert twice"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExpertCounts> ParseExpertCounts(std::string_view json, std::string_view source,
                                               const ModelConfig& config) {
  const absl::StatusOr<JsonDocument> document = JsonDocument::Parse(json);
  dom::array list;
  if (!document.ok() || document->root()["layers"].get(list) != simdjson::SUCCESS) {
    return BadFile(source, "expected {\"layers\": [[count of every expert], ...]}");
  }
  const std::vector<dom::element> layers(list.begin(), list.end());
  if (layers.size() != config.layer_is_moe.size()) {
    return BadFile(source, absl::StrCat("has ", layers.size(), " layers; the model has ",
                                        config.layer_is_moe.size()));
  }
  ExpertCounts counts;
  for (size_t i = 0; i < layers.size(); ++i) {
    auto layer = LayerCounts(layers[i], config.layer_is_moe[i] ? config.num_experts : 0);
    if (!layer.ok()) {
      return BadFile(source, absl::StrCat("layer ", i, " ", layer.status().message()));
    }
    counts.push_back(*std::move(layer));
  }
  return counts;
}

absl::StatusOr<ExpertCounts> LoadExpertCounts(const std::string& path, const ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxStatsBytes));
  return ParseExpertCounts(text, path, config);
}

std::string FormatExpertCounts(const ExpertLoads& loads) {
  std::string text = "{\"layers\": [";
  const char* separator = "";
  for (const LayerLoad& layer : loads.layers) {
    absl::StrAppend(&text, separator, "\n  [", absl::StrJoin(layer.choices, ", "), "]");
    separator = ",";
  }
  absl::StrAppend(&text, "\n]}\n");
  return text;
}

absl::StatusOr<ExpertPlan> PlanExperts(const ModelConfig& config, const ExpertCounts& counts,
                                       int32_t num_ranks, int32_t replicas_per_rank) {
  RETURN_IF_ERROR(CheckRanks(config, num_ranks, replicas_per_rank));
  const PlacementShape shape{.num_experts = config.num_experts,
                             .num_ranks = num_ranks,
                             .slots_per_rank = config.num_experts / num_ranks + replicas_per_rank};
  ASSIGN_OR_RETURN(const Placement even, Placement::Even(shape));
  ExpertPlan plan{.num_ranks = num_ranks, .slots_per_rank = shape.slots_per_rank};
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i].empty()) continue;
    ASSIGN_OR_RETURN(const Placement proposed, ProposePlacement(even, counts[i]));
    const absl::Span<const int32_t> slots = proposed.slot_experts();
    plan.layers.push_back({.layer = static_cast<int32_t>(i),
                           .ratio_before = MaxOverMean(even, counts[i]),
                           .ratio_after = MaxOverMean(proposed, counts[i]),
                           .slot_experts = {slots.begin(), slots.end()}});
    plan.worst_before = std::max(plan.worst_before, plan.layers.back().ratio_before);
    plan.worst_after = std::max(plan.worst_after, plan.layers.back().ratio_after);
  }
  return plan;
}

}  // namespace tessera
