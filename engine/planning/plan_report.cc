#include "engine/planning/plan_report.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kGB = 1e9;

double Rounded(double value) { return std::round(value * 1e4) / 1e4; }

// "12.3*": the KV cache does not hold so many sequences.
std::string StepCell(const PlanReport& report, const LayoutEstimate& layout, size_t index) {
  const int64_t groups = layout.data_parallel;
  const int64_t group_sequences = (kPlanBatches[index] + groups - 1) / groups;
  const bool held = group_sequences * report.request.context <= layout.kv_tokens_per_group;
  return absl::StrFormat("%.2f%s", layout.decode_step_ms[index], held ? " " : "*");
}

std::string Row(const PlanReport& report, const LayoutEstimate& layout) {
  return absl::StrFormat(
      "%4d %4d %3s %5s %9.2f %9.2f %9.1f %10d %9s %9s %9s %10.0f %9.0f %9.0f\n",
      layout.tensor_parallel, layout.data_parallel, layout.expert_parallel ? "yes" : "no",
      layout.fits ? "yes" : "NO", static_cast<double>(layout.weights_bytes_per_rank) / kGB,
      static_cast<double>(layout.buffer_bytes_per_rank) / kGB,
      static_cast<double>(layout.kv_bytes_per_token_per_rank) / 1e3, layout.kv_tokens,
      StepCell(report, layout, 0), StepCell(report, layout, 1), StepCell(report, layout, 2),
      layout.prefill_tokens_per_s, layout.tokens_per_s, layout.comm_bytes_per_layer_per_token);
}

std::string ExpertTable(const ExpertPlan& plan) {
  std::string text = absl::StrCat(
      "\nExperts on ", plan.num_ranks, " ranks, ", plan.slots_per_rank,
      " slots each. Load of the busiest rank over the mean, experts in order and as proposed:\n",
      "layer   before    after\n");
  for (const LayerPlacement& layer : plan.layers) {
    absl::StrAppendFormat(&text, "%5d %8.3f %8.3f\n", layer.layer, layer.ratio_before,
                          layer.ratio_after);
  }
  absl::StrAppendFormat(&text, "worst %8.3f %8.3f\n", plan.worst_before, plan.worst_after);
  absl::StrAppend(&text, "--json prints the proposed slots.\n");
  return text;
}

Json LayoutJson(const LayoutEstimate& layout) {
  Json steps = Json::object();
  for (size_t i = 0; i < kPlanBatches.size(); ++i) {
    steps[std::to_string(kPlanBatches[i])] = Rounded(layout.decode_step_ms[i]);
  }
  return {{"tensor_parallel", layout.tensor_parallel},
          {"data_parallel", layout.data_parallel},
          {"expert_parallel", layout.expert_parallel},
          {"fits", layout.fits},
          {"weights_bytes_per_rank", layout.weights_bytes_per_rank},
          {"buffer_bytes_per_rank", layout.buffer_bytes_per_rank},
          {"kv_bytes_per_token_per_rank", layout.kv_bytes_per_token_per_rank},
          {"kv_tokens_per_group", layout.kv_tokens_per_group},
          {"kv_tokens", layout.kv_tokens},
          {"max_num_batched_tokens", layout.max_batched_tokens},
          {"decode_step_ms", std::move(steps)},
          {"prefill_tokens_per_s", Rounded(layout.prefill_tokens_per_s)},
          {"comm_bytes_per_layer_per_token", Rounded(layout.comm_bytes_per_layer_per_token)},
          {"sequences", layout.sequences},
          {"tokens_per_s", Rounded(layout.tokens_per_s)}};
}

Json ExpertJson(const ExpertPlan& plan) {
  Json layers = Json::array();
  for (const LayerPlacement& layer : plan.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"max_over_mean_before", Rounded(layer.ratio_before)},
                      {"max_over_mean_after", Rounded(layer.ratio_after)},
                      {"slots", layer.slot_experts}});
  }
  return {{"ranks", plan.num_ranks},
          {"slots_per_rank", plan.slots_per_rank},
          {"max_over_mean_before", Rounded(plan.worst_before)},
          {"max_over_mean_after", Rounded(plan.worst_after)},
          {"layers", std::move(layers)}};
}

}  // namespace

std::string PlanTable(const PlanReport& report) {
  const PlanRequest& request = report.request;
  std::string text = absl::StrFormat(
      "%s, %s weights, on %d x %s\n"
      "context %d tokens, %.0f %% of the memory, best first for %s\n\n"
      "                      weights   buffers  KV/token         KV   decode step in ms at batch"
      "    prefill    tokens      sent\n"
      "  TP   DP  EP  fits   GB/rank   GB/rank   kB/rank     tokens %8d  %8d  %8d "
      "     tok/s      /s   B/layer\n",
      report.model, std::string(WeightFormatName(request.format)), request.gpus,
      std::string(request.gpu.description), request.context, request.gpu_memory_utilization * 100,
      std::string(PlanGoalName(request.goal)), kPlanBatches[0], kPlanBatches[1], kPlanBatches[2]);
  for (const LayoutEstimate& layout : report.layouts) absl::StrAppend(&text, Row(report, layout));
  absl::StrAppend(&text,
                  "\nEstimates from datasheet values. * = more sequences than the KV cache holds.\n"
                  "tokens/s: with a full KV cache, one prompt token read per token written.\n"
                  "sent: bytes by one rank per layer and token of a decode step of ",
                  kPlanBatches[2], ".\n");
  if (report.experts) absl::StrAppend(&text, ExpertTable(*report.experts));
  return text;
}

std::string PlanJson(const PlanReport& report) {
  Json layouts = Json::array();
  for (const LayoutEstimate& layout : report.layouts) layouts.push_back(LayoutJson(layout));
  Json root = {{"model", report.model},
               {"gpu", std::string(report.request.gpu.name)},
               {"gpus", report.request.gpus},
               {"dtype", std::string(WeightFormatName(report.request.format))},
               {"goal", std::string(PlanGoalName(report.request.goal))},
               {"context", report.request.context},
               {"layouts", std::move(layouts)}};
  if (report.experts) root["expert_placement"] = ExpertJson(*report.experts);
  return root.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace tessera
