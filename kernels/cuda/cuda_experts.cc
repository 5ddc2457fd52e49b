#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/operations.h"

namespace tessera::cuda {

cudaError_t RouteTopK(const Context& context, const RouteTopKArgs& args) {
  return LaunchRouteTopK(context.stream, {.logits = args.logits.as<float>(),
                                          .logits_stride = args.logits.stride0(),
                                          .logits_rows = args.logits.dim(0),
                                          .experts = static_cast<int32_t>(args.logits.dim(1)),
                                          .normalize = args.normalize,
                                          .first_row = args.first_row,
                                          .num_rows = args.num_rows.as<int32_t>(),
                                          .ids = args.ids.as<int32_t>(),
                                          .ids_stride = args.ids.stride0(),
                                          .weights = args.weights.as<float>(),
                                          .weights_stride = args.weights.stride0(),
                                          .rows = args.ids.dim(0),
                                          .top_k = static_cast<int32_t>(args.ids.dim(1))});
}

cudaError_t MoePermute(const Context& context, const MoePermuteArgs& args) {
  return LaunchMoePermute(context.stream, {.ids = args.ids.as<int32_t>(),
                                           .ids_stride = args.ids.stride0(),
                                           .positions = args.positions.as<int32_t>(),
                                           .positions_stride = args.positions.stride0(),
                                           .offsets = args.offsets.as<int32_t>(),
                                           .row_token = args.row_token.as<int32_t>(),
                                           .capacity = static_cast<int32_t>(args.row_token.dim(0)),
                                           .tokens = static_cast<int32_t>(args.ids.dim(0)),
                                           .top_k = static_cast<int32_t>(args.ids.dim(1)),
                                           .expert_begin = args.expert_begin,
                                           .experts = args.num_experts,
                                           .fault = context.fault});
}

cudaError_t MoeFinalize(const Context& context, const MoeFinalizeArgs& args) {
  return LaunchMoeFinalize(context.stream, {.y = RowsIn(args.y),
                                            .positions = args.positions.as<int32_t>(),
                                            .positions_stride = args.positions.stride0(),
                                            .weights = args.weights.as<float>(),
                                            .weights_stride = args.weights.stride0(),
                                            .out = RowsIn(args.out),
                                            .rows = args.out.dim(0),
                                            .top_k = static_cast<int32_t>(args.positions.dim(1)),
                                            .cols = static_cast<int32_t>(args.out.dim(1))});
}

cudaError_t CountChoices(const Context& context, const CountChoicesArgs& args) {
  return LaunchCountChoices(context.stream,
                            {.ids = args.ids.as<int32_t>(),
                             .num_ids = static_cast<int32_t>(args.ids.num_elements()),
                             .counts = args.counts.as<int64_t>(),
                             .experts = static_cast<int32_t>(args.counts.dim(0))});
}

cudaError_t CountRows(const Context& context, const CountRowsArgs& args) {
  return LaunchCountRows(context.stream, args.num_rows.as<int32_t>(), args.total.as<int64_t>());
}

cudaError_t SumCounts(const Context& context, const SumCountsArgs& args) {
  return LaunchSumCounts(context.stream, args.counts.as<int64_t>(), args.counts.dim(0),
                         args.sum.as<int64_t>());
}

cudaError_t LocalSlots(const Context& context, const LocalSlotsArgs& args) {
  return LaunchLocalSlots(context.stream, {.placement = args.placement.view(),
                                           .rank = args.rank,
                                           .ids = args.ids.as<int32_t>(),
                                           .slots = args.slots.as<int32_t>(),
                                           .num_ids = args.ids.num_elements(),
                                           .top_k = static_cast<int32_t>(args.ids.dim(1)),
                                           .fault = context.fault});
}

}  // namespace tessera::cuda
