#include "kernels/cuda/kernels/experts.h"
#include "kernels/cuda/operations.h"

namespace tessera::cuda {
namespace {

ChunkShape ShapeOf(const DispatchShape& shape) {
  return {.ranks = shape.num_ranks,
          .slots_per_rank = shape.slots_per_rank,
          .top_k = shape.top_k,
          .capacity = static_cast<int32_t>(shape.capacity),
          .row_slots = shape.row_slots(),
          .rows_per_token = shape.rows_per_token()};
}

}  // namespace

cudaError_t PlanDispatch(const Context& context, const PlanDispatchArgs& args) {
  return LaunchPlanDispatch(context.stream, {.shape = ShapeOf(args.shape),
                                             .placement = args.placement.view(),
                                             .rank = args.rank,
                                             .clear_unused = args.clear_unused,
                                             .tokens = static_cast<int32_t>(args.ids.dim(0)),
                                             .ids = args.ids.as<int32_t>(),
                                             .weights = args.weights.as<float>(),
                                             .send_counts = args.send_counts.as<int32_t>(),
                                             .pair_counts = args.pair_counts.as<int32_t>(),
                                             .send_tokens = args.send_tokens.as<int32_t>(),
                                             .headers = args.headers.as<int32_t>(),
                                             .token_rows = args.token_rows.as<int32_t>(),
                                             .pair_rows = args.pair_rows.as<int32_t>(),
                                             .fault = context.fault});
}

cudaError_t PackRows(const Context& context, const PackRowsArgs& args) {
  return LaunchPackRows(context.stream, {.shape = ShapeOf(args.shape),
                                         .x = args.x.data(),
                                         .x_stride = StrideBytes(args.x),
                                         .row_bytes = RowBytes(args.x),
                                         .send_counts = args.send_counts.as<int32_t>(),
                                         .send_tokens = args.send_tokens.as<int32_t>(),
                                         .chunks = args.chunks.data()});
}

cudaError_t SortRows(const Context& context, const SortRowsArgs& args) {
  return LaunchSortRows(context.stream, {.shape = ShapeOf(args.shape),
                                         .padded = args.padded,
                                         .headers = args.headers.as<int32_t>(),
                                         .recv_counts = args.recv_counts.as<int32_t>(),
                                         .pair_counts = args.pair_counts.as<int32_t>(),
                                         .offsets = args.offsets.as<int32_t>(),
                                         .row_index = args.row_index.as<int32_t>(),
                                         .sorted_rows = args.sorted_rows.as<int32_t>(),
                                         .result_rows = args.result_rows.as<int32_t>(),
                                         .fault = context.fault});
}

cudaError_t SumResults(const Context& context, const SumResultsArgs& args) {
  return LaunchSumResults(context.stream, {.shape = ShapeOf(args.shape),
                                           .y = RowsIn(args.y),
                                           .headers = args.headers.as<int32_t>(),
                                           .recv_counts = args.recv_counts.as<int32_t>(),
                                           .sorted_rows = args.sorted_rows.as<int32_t>(),
                                           .chunks = RowsIn(args.chunks),
                                           .cols = static_cast<int32_t>(args.y.dim(1))});
}

cudaError_t PackResults(const Context& context, const PackResultsArgs& args) {
  return LaunchPackResults(context.stream, {.shape = ShapeOf(args.shape),
                                            .y = args.y.data(),
                                            .y_stride = StrideBytes(args.y),
                                            .row_bytes = RowBytes(args.y),
                                            .headers = args.headers.as<int32_t>(),
                                            .recv_counts = args.recv_counts.as<int32_t>(),
                                            .sorted_rows = args.sorted_rows.as<int32_t>(),
                                            .result_rows = args.result_rows.as<int32_t>(),
                                            .chunks = args.chunks.data()});
}

cudaError_t CheckReturn(const Context& context, const CheckReturnArgs& args) {
  return LaunchCheckReturn(context.stream, {.sent = args.sent.as<int32_t>(),
                                            .returned = args.returned.as<int32_t>(),
                                            .ranks = static_cast<int32_t>(args.sent.dim(0)),
                                            .fault = context.fault});
}

cudaError_t AddRanks(const Context& context, const AddRanksArgs& args) {
  return LaunchAddRanks(context.stream,
                        {.chunks = RowsIn(args.chunks),
                         .token_rows = args.token_rows.as<int32_t>(),
                         .rows_per_token = static_cast<int32_t>(args.token_rows.dim(1)),
                         .out = RowsIn(args.out),
                         .rows = args.out.dim(0),
                         .cols = static_cast<int32_t>(args.out.dim(1))});
}

}  // namespace tessera::cuda
