#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/core/bit_mask.h"
#include "kernels/core/philox.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5F;

// Token ids by descending logit; equal logits by ascending id.
std::vector<int32_t> Descending(const std::vector<float>& logits) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

// A row's part of the penalty table; null without a slot.
struct Slot {
  int32_t* listed = nullptr;
  int32_t* counts = nullptr;
};

Slot SlotOf(const SampleArgs& args, int64_t n) {
  const int32_t slot = args.penalty_slot.as<int32_t>()[n];
  if (slot < 0) return {};
  return {.listed = args.penalty_listed.as<int32_t>() + slot * args.penalty_listed.stride0(),
          .counts = args.penalty_counts.as<int32_t>() + slot * args.penalty_counts.stride0()};
}

void ResetSlot(const SampleArgs& args, int64_t n) {
  const Slot slot = SlotOf(args, n);
  if (slot.listed == nullptr || args.penalty_reset.as<int32_t>()[n] == 0) return;
  std::fill_n(slot.listed, MaskWords(args.logits.dim(1)), 0);
  const int32_t* begin_end = args.pen_offsets.as<int32_t>() + n;
  for (int32_t i = begin_end[0]; i < begin_end[1]; ++i) {
    const int32_t token = args.pen_tokens.as<int32_t>()[i];
    AddToMask(slot.listed, token);
    slot.counts[token] = args.pen_counts.as<int32_t>()[i];
  }
}

void CountToken(const SampleArgs& args, int64_t n) {
  const Slot slot = SlotOf(args, n);
  const int32_t token = args.token.as<int32_t>()[n];
  if (slot.listed == nullptr || token < 0) return;
  if (!IsInMask(slot.listed, token)) slot.counts[token] = 0;
  AddToMask(slot.listed, token);
  ++slot.counts[token];
}

void Penalize(const SampleArgs& args, int64_t n, std::vector<float>& logits) {
  const Slot slot = SlotOf(args, n);
  if (slot.listed == nullptr) return;
  const float repetition = args.repetition_penalty.as<float>()[n];
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!IsInMask(slot.listed, static_cast<int64_t>(id))) continue;
    float& l = logits[id];
    l = l > 0 ? l / repetition : l * repetition;
    const int32_t count = slot.counts[id];
    l -= args.frequency_penalty.as<float>()[n] * static_cast<float>(count) +
         (count > 0 ? args.presence_penalty.as<float>()[n] : 0.0F);
  }
}

void Adjust(const SampleArgs& args, int64_t n, std::vector<float>& logits) {
  const int32_t* begin_end = args.adj_offsets.as<int32_t>() + n;
  for (int32_t i = begin_end[0]; i < begin_end[1]; ++i) {
    logits[args.adj_tokens.as<int32_t>()[i]] += args.adj_values.as<float>()[i];
  }
}

void Mask(const SampleArgs& args, int64_t n, std::vector<float>& logits) {
  const int32_t row = args.mask_row.as<int32_t>()[n];
  if (row < 0) return;
  const int32_t* mask = args.masks.as<int32_t>() + row * args.masks.stride0();
  const bool candidates = args.forced.as<int32_t>()[n] == SampleArgs::kCandidateRow;
  const float penalty = candidates ? args.mask_penalty.as<float>()[n] : kInfinity;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!IsInMask(mask, static_cast<int64_t>(id)))
      logits[id] = penalty == kInfinity ? -kInfinity : logits[id] - penalty;
  }
}

// How many of `order` survive top-k, top-p and min-p.
size_t CountKept(const SampleArgs& args, int64_t n, const std::vector<float>& logits,
                 const std::vector<int32_t>& order) {
  const int32_t top_k = args.top_k.as<int32_t>()[n];
  const auto weight = [&](size_t i) {
    return std::exp(static_cast<double>(logits[order[i]]) - logits[order[0]]);
  };
  size_t kept = order.size();
  if (top_k > 0) kept = std::min<size_t>(kept, top_k);
  const double top_p = args.top_p.as<float>()[n];
  if (top_p < 1.0) {
    double total = 0;
    for (size_t i = 0; i < kept; ++i) total += weight(i);
    double prefix = weight(0);
    size_t count = 1;
    while (count < kept && prefix < top_p * total) prefix += weight(count++);
    kept = count;
  }
  const double min_p = args.min_p.as<float>()[n];
  while (kept > 1 && weight(kept - 1) < min_p) --kept;
  return kept;
}

int32_t Draw(const SampleArgs& args, int64_t n, std::vector<float>& logits) {
  const float temperature = args.temperature.as<float>()[n];
  const bool greedy = temperature < kGreedyBelow;
  if (!greedy) {
    for (float& l : logits) l /= temperature;
  }
  const std::vector<int32_t> order = Descending(logits);
  if (std::any_of(logits.begin(), logits.end(), [](float l) { return std::isnan(l); })) return -1;
  if (logits[order[0]] == -kInfinity) return -1;
  if (greedy || logits[order[0]] == kInfinity) return order[0];
  const auto seed = static_cast<uint64_t>(args.seed.as<int64_t>()[n]);
  const auto position = static_cast<uint32_t>(args.position.as<int32_t>()[n]);
  const size_t kept = CountKept(args, n, logits, order);
  int32_t best = -1;
  double best_score = -HUGE_VAL;
  for (size_t i = 0; i < kept; ++i) {
    const double u = UniformFromSeed(seed, position, order[i]);
    const double score = logits[order[i]] - std::log(-std::log(u));
    if (score > best_score || (score == best_score && order[i] < best)) {
      best = order[i];
      best_score = score;
    }
  }
  return best;
}

// The alternatives are those of `listed`: the raw row, or what a candidate row makes of it.
void ReportLogprobs(const SampleArgs& args, int64_t n, const std::vector<float>& raw,
                    const std::vector<float>& listed, int32_t token) {
  const std::vector<int32_t> order = Descending(raw);
  const double largest = raw[order[0]];
  double total = 0;
  for (float l : raw) total += std::exp(l - largest);
  const double log_total = largest + std::log(total);
  if (token >= 0) {
    args.logprob.as<float>()[n] = static_cast<float>(raw[token] - log_total);
    args.rank.as<int32_t>()[n] =
        static_cast<int32_t>(std::find(order.begin(), order.end(), token) - order.begin() + 1);
  }
  const bool candidates = args.forced.as<int32_t>()[n] == SampleArgs::kCandidateRow;
  const std::vector<int32_t> top = Descending(listed);
  const auto size = static_cast<int32_t>(top.size());
  for (int32_t j = 0; j < args.num_logprobs.as<int32_t>()[n]; ++j) {
    const bool there = j < size && !(candidates && listed[top[j]] == -kInfinity);
    const int32_t id = there ? top[j] : -1;
    args.top_tokens.as<int32_t>()[n * args.top_tokens.stride0() + j] = id;
    args.top_logprobs.as<float>()[n * args.top_logprobs.stride0() + j] =
        id < 0 ? -kInfinity : static_cast<float>(listed[id] - log_total);
  }
}

// What a row reports that has no token or no finite distribution.
void ReportNothing(const SampleArgs& args, int64_t n, bool clear_alternatives) {
  args.logprob.as<float>()[n] = -kInfinity;
  args.rank.as<int32_t>()[n] = 0;
  if (!clear_alternatives) return;
  for (int32_t j = 0; j < args.num_logprobs.as<int32_t>()[n]; ++j) {
    args.top_tokens.as<int32_t>()[n * args.top_tokens.stride0() + j] = -1;
    args.top_logprobs.as<float>()[n * args.top_logprobs.stride0() + j] = -kInfinity;
  }
}

bool HasDistribution(const std::vector<float>& logits) {
  float largest = -kInfinity;
  for (float l : logits) {
    if (std::isnan(l)) return false;
    largest = std::max(largest, l);
  }
  return std::isfinite(largest);
}

void SampleRow(const SampleArgs& args, int64_t n) {
  const float* row = args.logits.as<float>() + n * args.logits.stride0();
  const std::vector<float> raw(row, row + args.logits.dim(1));
  const bool wants_logprobs = args.num_logprobs.as<int32_t>()[n] >= 0;
  int32_t& token = args.token.as<int32_t>()[n];
  if (!HasDistribution(raw)) {
    token = -1;
    if (wants_logprobs) ReportNothing(args, n, /*clear_alternatives=*/true);
    return;
  }
  token = args.forced.as<int32_t>()[n];
  const bool candidates = token == SampleArgs::kCandidateRow;
  std::vector<float> logits = raw;
  if (token < 0) {
    Penalize(args, n, logits);
    Adjust(args, n, logits);
    Mask(args, n, logits);
    token = Draw(args, n, logits);
  }
  if (!wants_logprobs) return;
  if (token < 0) ReportNothing(args, n, /*clear_alternatives=*/false);
  ReportLogprobs(args, n, raw, candidates ? logits : raw, token);
}

}  // namespace

void Sample(const SampleArgs& args) {
  for (int64_t n = 0; n < args.logits.dim(0); ++n) {
    if (args.forced.as<int32_t>()[n] == SampleArgs::kPaddedRow) {
      args.token.as<int32_t>()[n] = -1;
      continue;
    }
    ResetSlot(args, n);
    SampleRow(args, n);
    CountToken(args, n);
  }
}

}  // namespace tessera::ref
