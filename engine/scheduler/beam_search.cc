#include "engine/scheduler/beam_search.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// All continuations in the order of the search.
std::vector<BeamStep> Ordered(absl::Span<const BeamRow> rows) {
  std::vector<BeamStep> steps;
  for (size_t beam = 0; beam < rows.size(); ++beam) {
    for (const TokenAlternative& candidate : *rows[beam].candidates) {
      steps.push_back({.parent = static_cast<int32_t>(beam),
                       .token = candidate.token,
                       .logprob = candidate.logprob,
                       .sum = rows[beam].sum + static_cast<double>(candidate.logprob)});
    }
  }
  std::sort(steps.begin(), steps.end(), [](const BeamStep& a, const BeamStep& b) {
    if (a.sum != b.sum) return a.sum > b.sum;
    return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
  });
  return steps;
}

}  // namespace

double BeamSearch::Score(double sum, int32_t length) const {
  return sum / std::pow(static_cast<double>(length), params_.length_penalty);
}

void BeamSearch::Keep(const BeamStep& step, const Callbacks& callbacks) {
  const double score = Score(step.sum, length_);
  const auto place = std::upper_bound(scores_.begin(), scores_.end(), score, std::greater<>());
  const auto index = static_cast<size_t>(place - scores_.begin());
  if (index >= static_cast<size_t>(params_.width)) return;
  scores_.insert(place, score);
  if (scores_.size() > static_cast<size_t>(params_.width)) scores_.pop_back();
  callbacks.keep(step, score, index);
}

bool BeamSearch::CanImprove(double best_sum) const {
  if (!IsFull()) return true;
  const bool looks_ahead =
      params_.early_stopping == BeamEarlyStopping::kNever && params_.length_penalty > 0.0;
  return Score(best_sum, looks_ahead ? max_tokens_ : length_) > scores_.back();
}

std::vector<BeamStep> BeamSearch::Step(absl::Span<const BeamRow> rows, const Callbacks& callbacks) {
  const auto width = static_cast<size_t>(params_.width);
  const bool closed = IsFull() && params_.early_stopping == BeamEarlyStopping::kYes;
  ++length_;
  std::vector<BeamStep> next;
  size_t rank = 0;
  for (const BeamStep& step : Ordered(rows)) {
    if (next.size() == width) break;  // what follows has a lower rank than these
    if (!callbacks.ends(step)) {
      next.push_back(step);
    } else if (rank < width && !closed) {
      Keep(step, callbacks);
    }
    ++rank;
  }
  done_ = next.empty() || (IsFull() && params_.early_stopping == BeamEarlyStopping::kYes) ||
          !CanImprove(next.front().sum);
  return next;
}

int32_t CandidatesPerBeam(const GenerateRequest& request, int32_t num_stop_ids) {
  const int32_t width = request.beams.width;
  const int32_t others = request.structure.structure != nullptr ? width : 0;
  return std::max(width + num_stop_ids + others, request.sampling.logprobs.value_or(0));
}

}  // namespace tessera
