#include <cmath>
#include <vector>

#include "kernels/ref/element.h"
#include "kernels/ref/kv_slot.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {
namespace {

// `cos_sin` is the row of the token's position.
std::vector<float> NormAndRotate(const std::vector<float>& x, ConstTensorView norm,
                                 const float* cos_sin, float eps) {
  const int64_t head_dim = norm.dim(0);
  double squares = 0;
  for (int64_t i = 0; i < head_dim; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(head_dim) + eps);
  const int64_t half = head_dim / 2;
  std::vector<float> out(head_dim);
  for (int64_t i = 0; i < half; ++i) {
    const double low = x[i] * scale * norm.as<float>()[i];
    const double high = x[i + half] * scale * norm.as<float>()[i + half];
    const double cos = cos_sin[i];
    const double sin = cos_sin[i + half];
    out[i] = static_cast<float>(low * cos - high * sin);
    out[i + half] = static_cast<float>(high * cos + low * sin);
  }
  return out;
}

}  // namespace

void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) {
  const int64_t head_dim = args.kv.k.dim(3);
  for (int64_t t = 0; t < args.qkv.dim(0); ++t) {
    const float* cos_sin =
        args.cos_sin.as<float>() + args.positions.as<int32_t>()[t] * args.cos_sin.stride0();
    for (int64_t h = 0; h < args.num_q_heads; ++h) {
      const std::vector<float> q = LoadRow(args.qkv, t, h * head_dim, head_dim);
      StoreRow(args.qkv, t, h * head_dim, NormAndRotate(q, args.q_norm, cos_sin, args.eps));
    }
    const int64_t slot = args.slot_mapping.as<int32_t>()[t];
    if (slot < 0) continue;
    for (int64_t h = 0; h < args.num_kv_heads; ++h) {
      const int64_t k_begin = (args.num_q_heads + h) * head_dim;
      const int64_t v_begin = k_begin + args.num_kv_heads * head_dim;
      const std::vector<float> k = LoadRow(args.qkv, t, k_begin, head_dim);
      const std::vector<float> v = LoadRow(args.qkv, t, v_begin, head_dim);
      const std::vector<float> rotated = NormAndRotate(k, args.k_norm, cos_sin, args.eps);
      const int64_t k_index = SlotIndex(args.kv.k, slot, h);
      const int64_t v_index = SlotIndex(args.kv.v, slot, h);
      for (int64_t i = 0; i < head_dim; ++i) {
        Store(args.kv.k, k_index + i, rotated[i]);
        Store(args.kv.v, v_index + i, v[i]);
      }
    }
  }
}

}  // namespace tessera::ref
