#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ref/element.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {

void RouteTopK(const RouteTopKArgs& args) {
  const int64_t num_experts = args.logits.dim(1);
  const int64_t top_k = args.ids.dim(1);
  int64_t tokens = args.logits.dim(0);
  if (!args.num_rows.empty()) {
    tokens = std::min<int64_t>(tokens, *args.num_rows.as<int32_t>() - args.first_row);
  }
  for (int64_t t = 0; t < args.ids.dim(0); ++t) {
    if (t >= tokens) {
      std::fill_n(args.ids.as<int32_t>() + t * args.ids.stride0(), top_k, -1);
      std::fill_n(args.weights.as<float>() + t * args.weights.stride0(), top_k, 0.0F);
      continue;
    }
    const float* logits = args.logits.as<float>() + t * args.logits.stride0();
    std::vector<int32_t> order(num_experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    const double largest = logits[order[0]];
    double total = 0;
    double chosen = 0;
    for (int64_t j = 0; j < num_experts; ++j) {
      const double weight = std::exp(logits[order[j]] - largest);
      total += weight;
      if (j < top_k) chosen += weight;
    }
    for (int64_t j = 0; j < top_k; ++j) {
      const double weight = std::exp(logits[order[j]] - largest);
      args.ids.as<int32_t>()[t * args.ids.stride0() + j] = order[j];
      args.weights.as<float>()[t * args.weights.stride0() + j] =
          static_cast<float>(weight / (args.normalize ? chosen : total));
    }
  }
}

absl::Status MoePermute(const MoePermuteArgs& args) {
  const int64_t top_k = args.ids.dim(1);
  int32_t row = 0;
  for (int64_t t = 0; t < args.ids.dim(0); ++t) {
    std::fill_n(args.positions.as<int32_t>() + t * args.positions.stride0(), top_k, -1);
  }
  for (int32_t e = 0; e < args.num_experts; ++e) {
    args.offsets.as<int32_t>()[e] = row;
    for (int64_t t = 0; t < args.ids.dim(0); ++t) {
      for (int64_t j = 0; j < top_k; ++j) {
        if (args.ids.as<int32_t>()[t * args.ids.stride0() + j] != args.expert_begin + e) continue;
        if (row == args.row_token.dim(0)) {
          return absl::InternalError("a token chose one expert twice");
        }
        args.positions.as<int32_t>()[t * args.positions.stride0() + j] = row;
        args.row_token.as<int32_t>()[row++] = static_cast<int32_t>(t);
      }
    }
  }
  args.offsets.as<int32_t>()[args.num_experts] = row;
  return absl::OkStatus();
}

void MoeFinalize(const MoeFinalizeArgs& args) {
  for (int64_t t = 0; t < args.out.dim(0); ++t) {
    const int32_t* positions = args.positions.as<int32_t>() + t * args.positions.stride0();
    const float* weights = args.weights.as<float>() + t * args.weights.stride0();
    for (int64_t i = 0; i < args.out.dim(1); ++i) {
      float sum = 0;
      for (int64_t j = 0; j < args.positions.dim(1); ++j) {
        if (positions[j] < 0) continue;
        sum += weights[j] * Load(args.y, positions[j] * args.y.stride0() + i);
      }
      Store(args.out, t * args.out.stride0() + i, sum);
    }
  }
}

}  // namespace tessera::ref
