#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/operations.h"

namespace tessera::cpu {
namespace {

// Inserts into the descending list of the largest so far; equal logits keep their order.
void Insert(float logit, int32_t id, int64_t count, float* logits, int32_t* ids) {
  int64_t place = count;
  while (place > 0 && logits[place - 1] < logit) --place;
  for (int64_t i = count; i > place; --i) {
    logits[i] = logits[i - 1];
    ids[i] = ids[i - 1];
  }
  logits[place] = logit;
  ids[place] = id;
}

void RouteRow(const Context& context, const RouteTopKArgs& args, int64_t t) {
  const int64_t experts = args.logits.dim(1);
  const int64_t top_k = args.ids.dim(1);
  const float* logits = args.logits.as<float>() + t * args.logits.stride0();
  int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride0();
  float* weights = args.weights.as<float>() + t * args.weights.stride0();
  float* chosen = Scratch(top_k + 1);
  // The lists have room for top_k entries; the last one drops out when a larger one comes.
  for (int64_t e = 0, count = 0; e < experts; ++e) {
    // A NaN must not displace numbers, but it stays visible in the weights.
    const float logit = std::isnan(logits[e]) ? -std::numeric_limits<float>::infinity() : logits[e];
    if (count < top_k) {
      Insert(logit, static_cast<int32_t>(e), count++, chosen, ids);
    } else if (logit > chosen[top_k - 1]) {
      Insert(logit, static_cast<int32_t>(e), top_k - 1, chosen, ids);
    }
  }
  const float largest = chosen[0];
  context.kernels.exp(chosen, largest, top_k, weights);
  float total = 0;
  if (args.normalize) {
    for (int64_t j = 0; j < top_k; ++j) total += weights[j];
  } else {
    total = context.kernels.sum_exp(logits, largest, experts);
  }
  for (int64_t j = 0; j < top_k; ++j) weights[j] /= total;
}

}  // namespace

void RouteTopK(const Context& context, const RouteTopKArgs& args) {
  int64_t tokens = args.logits.dim(0);
  if (!args.num_rows.empty()) {
    const int64_t left = int64_t{*args.num_rows.as<int32_t>()} - args.first_row;
    tokens = std::clamp<int64_t>(left, 0, tokens);
  }
  const auto cost = static_cast<double>(tokens * args.logits.dim(1)) * 2;
  context.For(tokens, cost, [&](int64_t t) { RouteRow(context, args, t); });
  const int64_t top_k = args.ids.dim(1);
  for (int64_t t = tokens; t < args.ids.dim(0); ++t) {
    std::fill_n(args.ids.as<int32_t>() + t * args.ids.stride0(), top_k, -1);
    std::fill_n(args.weights.as<float>() + t * args.weights.stride0(), top_k, 0.0F);
  }
}

absl::Status MoePermute(const Context& /*context*/, const MoePermuteArgs& args) {
  const int64_t tokens = args.ids.dim(0);
  const int64_t top_k = args.ids.dim(1);
  // One past the experts of this rank stands for all others: no branch depends on the choices.
  const auto num_experts = static_cast<uint32_t>(args.num_experts);
  const auto expert_of = [&](int32_t id) {
    return std::min(static_cast<uint32_t>(id - args.expert_begin), num_experts);
  };
  thread_local std::vector<int32_t> next;
  next.assign(num_experts + 1, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride0();
    for (int64_t j = 0; j < top_k; ++j) ++next[expert_of(ids[j])];
  }
  int32_t* offsets = args.offsets.as<int32_t>();
  offsets[0] = 0;
  for (uint32_t e = 0; e < num_experts; ++e) {
    offsets[e + 1] = offsets[e] + next[e];
    next[e] = offsets[e];
  }
  if (offsets[num_experts] > args.row_token.dim(0)) {
    return absl::InternalError("a token chose one expert twice");
  }
  int32_t* row_token = args.row_token.as<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    const int32_t* ids = args.ids.as<int32_t>() + t * args.ids.stride0();
    int32_t* positions = args.positions.as<int32_t>() + t * args.positions.stride0();
    for (int64_t j = 0; j < top_k; ++j) {
      const uint32_t expert = expert_of(ids[j]);
      const bool here = expert < num_experts;
      positions[j] = here ? next[expert]++ : -1;
      if (here) row_token[positions[j]] = static_cast<int32_t>(t);
    }
  }
  return absl::OkStatus();
}

void MoeFinalize(const Context& context, const MoeFinalizeArgs& args) {
  const int64_t top_k = args.positions.dim(1);
  const int64_t size = args.out.dim(1);
  const auto cost = static_cast<double>(args.out.dim(0) * size * top_k) / 8;
  context.For(args.out.dim(0), cost, [&](int64_t t) {
    thread_local std::vector<const float*> rows;
    thread_local std::vector<float> weights;
    rows.clear();
    weights.clear();
    for (int64_t j = 0; j < top_k; ++j) {
      const int32_t row = args.positions.as<int32_t>()[t * args.positions.stride0() + j];
      if (row < 0) continue;
      rows.push_back(args.y.as<float>() + row * args.y.stride0());
      weights.push_back(args.weights.as<float>()[t * args.weights.stride0() + j]);
    }
    context.kernels.weighted_sum(rows.data(), weights.data(), static_cast<int64_t>(rows.size()),
                                 size, args.out.as<float>() + t * args.out.stride0());
  });
}

}  // namespace tessera::cpu
