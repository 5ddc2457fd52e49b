#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/kernels/rows.h"
#include "kernels/cuda/operations.h"

namespace tessera::cuda {

cudaError_t Embed(const Context& context, const EmbedArgs& args) {
  const CudaWeight& table = CudaWeight::Of(*args.table);
  return LaunchEmbed(context.stream, {.ids = args.ids.as<int32_t>(),
                                      .source = args.source.as<int32_t>(),
                                      .drawn = args.drawn.as<int32_t>(),
                                      .table = table.matrix(),
                                      .vocab = static_cast<int32_t>(table.rows()),
                                      .vocab_begin = args.vocab_begin,
                                      .out = RowsIn(args.out),
                                      .rows = args.ids.dim(0),
                                      .cols = static_cast<int32_t>(table.cols())});
}

cudaError_t RmsNorm(const Context& context, const RmsNormArgs& args) {
  return LaunchRmsNorm(context.stream, {.x = RowsIn(args.x),
                                        .add = RowsIn(args.add),
                                        .weight = args.weight.as<float>(),
                                        .out = RowsIn(args.out),
                                        .rows = args.x.dim(0),
                                        .cols = static_cast<int32_t>(args.x.dim(1)),
                                        .eps = args.eps});
}

cudaError_t QkNormRopeStoreKv(const Context& context, const QkNormRopeStoreKvArgs& args) {
  return LaunchQkNormRope(context.stream, {.qkv = RowsIn(args.qkv),
                                           .q_norm = args.q_norm.as<float>(),
                                           .k_norm = args.k_norm.as<float>(),
                                           .cos_sin = args.cos_sin.as<float>(),
                                           .cos_sin_stride = args.cos_sin.stride0(),
                                           .positions = args.positions.as<int32_t>(),
                                           .slots = args.slot_mapping.as<int32_t>(),
                                           .k_cache = RowsIn(args.kv.k),
                                           .v_cache = RowsIn(args.kv.v),
                                           .rows = args.qkv.dim(0),
                                           .q_heads = args.num_q_heads,
                                           .kv_heads = args.num_kv_heads,
                                           .head_dim = static_cast<int32_t>(args.kv.k.dim(3)),
                                           .block_size = static_cast<int32_t>(args.kv.k.dim(2)),
                                           .eps = args.eps});
}

cudaError_t SiluAndMul(const Context& context, const SiluAndMulArgs& args) {
  return LaunchSiluAndMul(context.stream, {.x = RowsIn(args.x),
                                           .num_rows = args.num_rows.as<int32_t>(),
                                           .out = RowsIn(args.out),
                                           .rows = args.x.dim(0),
                                           .cols = static_cast<int32_t>(args.out.dim(1))});
}

cudaError_t GatherRows(const Context& context, const GatherRowsArgs& args) {
  return LaunchGatherRows(context.stream, {.x = args.x.data(),
                                           .x_stride = StrideBytes(args.x),
                                           .rows = args.rows.as<int32_t>(),
                                           .out = args.out.data(),
                                           .out_stride = StrideBytes(args.out),
                                           .count = args.rows.dim(0),
                                           .row_bytes = RowBytes(args.x)});
}

cudaError_t CopyBlocks(const Context& context, const CopyBlocksArgs& args) {
  return LaunchCopyBlocks(
      context.stream,
      {.cache = args.cache.data(),
       .parts = args.cache.dim(0),
       .blocks = args.cache.dim(1),
       .block_bytes = args.cache.dim(2) * static_cast<int64_t>(SizeOf(args.cache.dtype())),
       .from = args.from.as<int32_t>(),
       .to = args.to.as<int32_t>(),
       .pairs = args.from.dim(0)});
}

cudaError_t ConcatColumns(const Context& context, const ConcatColumnsArgs& args) {
  return LaunchConcatColumns(context.stream, {.shards = args.shards.as<float>(),
                                              .out = args.out.as<float>(),
                                              .out_stride = args.out.stride0(),
                                              .rows = args.out.dim(0),
                                              .width = static_cast<int32_t>(args.shards.dim(2)),
                                              .cols = static_cast<int32_t>(args.out.dim(1))});
}

}  // namespace tessera::cuda
