#include <cstring>

#include "kernels/cpu/operations.h"

namespace tessera::cpu {
namespace {

// First byte of [block, head, offset, :] in a cache [num_blocks, Nk, block_size, D].
char* SlotAddress(const TensorView& cache, int64_t slot, int64_t head) {
  const int64_t block = slot / cache.dim(2);
  const int64_t offset = slot % cache.dim(2);
  const int64_t element = block * cache.stride0() + (head * cache.dim(2) + offset) * cache.dim(3);
  return cache.as<char>() + element * static_cast<int64_t>(SizeOf(cache.dtype()));
}

void Store(const Context& context, const TensorView& cache, const float* x, char* destination) {
  const int64_t head_dim = cache.dim(3);
  if (cache.dtype() == DType::kBF16) {
    context.kernels.to_bf16(x, head_dim, reinterpret_cast<uint16_t*>(destination));
  } else {
    std::memcpy(destination, x, head_dim * sizeof(float));
  }
}

void OneToken(const Context& context, const QkNormRopeStoreKvArgs& args, int64_t t) {
  const int64_t head_dim = args.kv.k.dim(3);
  const int64_t slot = args.slot_mapping.as<int32_t>()[t];
  const float* cos_sin =
      args.cos_sin.as<float>() + int64_t{args.positions.as<int32_t>()[t]} * args.cos_sin.stride0();
  float* scratch = Scratch(2 * head_dim);
  float* head = args.qkv.as<float>() + t * args.qkv.stride0();
  for (int32_t h = 0; h < args.num_q_heads; ++h, head += head_dim) {
    context.kernels.norm_rope(head, args.q_norm.as<float>(), cos_sin, args.eps, head_dim, scratch,
                              head);
  }
  if (slot < 0) return;
  const int64_t value_offset = args.num_kv_heads * head_dim;
  for (int32_t h = 0; h < args.num_kv_heads; ++h, head += head_dim) {
    float* key = scratch + head_dim;
    context.kernels.norm_rope(head, args.k_norm.as<float>(), cos_sin, args.eps, head_dim, scratch,
                              key);
    Store(context, args.kv.k, key, SlotAddress(args.kv.k, slot, h));
    Store(context, args.kv.v, head + value_offset, SlotAddress(args.kv.v, slot, h));
  }
}

}  // namespace

void QkNormRopeStoreKv(const Context& context, const QkNormRopeStoreKvArgs& args) {
  const int64_t tokens = args.qkv.dim(0);
  const auto cost = static_cast<double>(tokens * args.qkv.dim(1)) / 2;
  context.For(tokens, cost, [&](int64_t t) { OneToken(context, args, t); });
}

}  // namespace tessera::cpu
