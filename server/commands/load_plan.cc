#include "server/commands/load_plan.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int32_t kMaxTokens = 1'000'000;
constexpr double kMaxSeconds = 1e6;

int32_t LogNormal(int32_t median, double deviation, std::mt19937_64* random) {
  constexpr int64_t kMostMedians = 16;
  std::lognormal_distribution<double> distribution(std::log(median), deviation);
  const int64_t most = std::min<int64_t>(kMaxTokens, kMostMedians * median);
  return static_cast<int32_t>(std::clamp<int64_t>(
      std::llround(std::min(distribution(*random), 1.0 * kMaxTokens)), 1, most));
}

// Arrivals of a Poisson process: the gaps are exponential.
void SetTimes(double rate, std::mt19937_64* random, LoadPlan* plan) {
  plan->is_open = rate > 0;
  if (!plan->is_open) return;
  std::exponential_distribution<double> gap(rate);
  double at = 0;
  for (PlannedRequest& request : plan->requests) {
    at += gap(*random);
    request.at = absl::Seconds(at);
  }
}

absl::StatusOr<PlannedRequest> ParseLine(absl::string_view line, bool* has_time) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto tokens = [&json](const char* name) -> absl::StatusOr<int32_t> {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number_integer() || *found < 1 || *found > kMaxTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", name, "\" must be a number of tokens, 1 to ", kMaxTokens));
    }
    return found->get<int32_t>();
  };
  if (!json.is_object()) return absl::InvalidArgumentError("no JSON object");
  PlannedRequest request;
  ASSIGN_OR_RETURN(request.input_len, tokens("input"));
  ASSIGN_OR_RETURN(request.output_len, tokens("output"));
  const auto at = json.find("at");
  *has_time = at != json.end();
  if (!*has_time) return request;
  if (!at->is_number() || *at < 0 || *at > kMaxSeconds) {
    return absl::InvalidArgumentError("\"at\" must be seconds since the start, 0 to 1e6");
  }
  request.at = absl::Seconds(at->get<double>());
  return request;
}

}  // namespace

LoadPlan MakeLoadPlan(const LoadShape& shape) {
  constexpr double kPromptDeviation = 1.0;
  constexpr double kAnswerDeviation = 0.7;
  std::mt19937_64 random(shape.seed);
  LoadPlan plan{.concurrency = shape.concurrency};
  plan.requests.resize(shape.num_requests,
                       {.input_len = shape.input_len, .output_len = shape.output_len});
  if (shape.chat_lengths) {
    for (PlannedRequest& request : plan.requests) {
      request.input_len = LogNormal(shape.input_len, kPromptDeviation, &random);
      request.output_len = LogNormal(shape.output_len, kAnswerDeviation, &random);
    }
  }
  SetTimes(shape.rate, &random, &plan);
  return plan;
}

absl::StatusOr<LoadPlan> PlanOfTrace(const std::string& text, const LoadShape& shape) {
  LoadPlan plan{.concurrency = shape.concurrency};
  size_t with_time = 0;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) continue;
    if (shape.num_requests > 0 && std::ssize(plan.requests) == shape.num_requests) break;
    bool has_time = false;
    const auto request = ParseLine(line, &has_time);
    if (!request.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": ", request.status().message()));
    }
    with_time += has_time ? 1 : 0;
    plan.requests.push_back(*request);
  }
  if (plan.requests.empty()) return absl::InvalidArgumentError("has no line");
  if (with_time != 0 && with_time != plan.requests.size()) {
    return absl::InvalidArgumentError("has \"at\" in some lines only");
  }
  if (with_time == 0) {
    std::mt19937_64 random(shape.seed);
    SetTimes(shape.rate, &random, &plan);
    return plan;
  }
  plan.is_open = true;
  std::ranges::stable_sort(plan.requests, {}, &PlannedRequest::at);
  return plan;
}

}  // namespace tessera
