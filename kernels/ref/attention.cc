#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/element.h"
#include "kernels/ref/kv_slot.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {
namespace {

// One query head over positions [begin, end) of one sequence.
struct HeadContext {
  const int32_t* block_table;
  int64_t kv_head;
  int64_t begin;
  int64_t end;
};

std::vector<float> Attend(const PagedAttentionArgs& args, const HeadContext& context,
                          const std::vector<float>& q) {
  const auto [block_table, kv_head, begin, end] = context;
  const int64_t head_dim = args.kv.k.dim(3);
  const int64_t block_size = args.kv.k.dim(2);
  const auto slot = [table = block_table, block_size](int64_t j) {
    return table[j / block_size] * block_size + j % block_size;
  };
  std::vector<double> weights(end - begin);
  double largest = -HUGE_VAL;
  for (int64_t j = begin; j < end; ++j) {
    const int64_t k = SlotIndex(args.kv.k, slot(j), kv_head);
    double dot = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      dot += static_cast<double>(q[i]) * Load(args.kv.k, k + i);
    }
    weights[j - begin] = dot * args.scale;
    largest = std::max(largest, weights[j - begin]);
  }
  double total = 0;
  for (double& weight : weights) total += weight = std::exp(weight - largest);
  std::vector<double> sums(head_dim);
  for (int64_t j = begin; j < end; ++j) {
    const int64_t v = SlotIndex(args.kv.v, slot(j), kv_head);
    for (int64_t i = 0; i < head_dim; ++i) sums[i] += weights[j - begin] * Load(args.kv.v, v + i);
  }
  std::vector<float> out(head_dim);
  for (int64_t i = 0; i < head_dim; ++i) out[i] = static_cast<float>(sums[i] / total);
  return out;
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args) {
  const int64_t head_dim = args.kv.k.dim(3);
  const int64_t group = args.num_q_heads / args.num_kv_heads;
  const int32_t* cu_seqlens = args.cu_seqlens.as<int32_t>();
  for (int64_t s = 0; s < args.context_lens.dim(0); ++s) {
    const int64_t context = args.context_lens.as<int32_t>()[s];
    const int32_t* block_table = args.block_tables.as<int32_t>() + s * args.block_tables.stride0();
    for (int64_t t = cu_seqlens[s]; t < cu_seqlens[s + 1]; ++t) {
      if (context == 0) {
        StoreRow(args.out, t, 0, std::vector<float>(args.num_q_heads * head_dim));
        continue;
      }
      const int64_t position = context - (cu_seqlens[s + 1] - t);
      const int64_t begin = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
      for (int64_t h = 0; h < args.num_q_heads; ++h) {
        StoreRow(args.out, t, h * head_dim,
                 Attend(args, {block_table, h / group, begin, position + 1},
                        LoadRow(args.q, t, h * head_dim, head_dim)));
      }
    }
  }
}

}  // namespace tessera::ref
