#include <algorithm>
#include <limits>

#include "kernels/cuda/kernels/attention.h"
#include "kernels/cuda/kernels/attention_sm90.h"
#include "kernels/cuda/kernels/sm90.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/tensor_map.h"

namespace tessera::cuda {
namespace {

// The host does not know the contexts, only how many blocks a table can name.
int32_t LongestContext(const PagedAttentionArgs& args) {
  const int64_t positions = args.block_tables.dim(1) * args.kv.k.dim(2);
  return static_cast<int32_t>(std::min<int64_t>(positions, std::numeric_limits<int32_t>::max()));
}

cudaError_t EncodePages(const ConstTensorView& cache, const AttentionProblem& problem,
                        simt::TensorMap* map) {
  return EncodeTensorMap({.data = cache.data(),
                          .pages = cache.dim(0),
                          .rows = int64_t{problem.kv_heads} * problem.block_size,
                          .cols = problem.head_dim,
                          .page_stride = problem.block_stride,
                          .box_rows = Sm90PageRows(problem)},
                         map);
}

cudaError_t LaunchOnSm90(const Context& context, const KvLayer& kv, AttentionProblem& problem) {
  AttentionSm90Maps maps;
  if (Sm90LoadsPages(problem)) {
    cudaError_t error = EncodePages(kv.k, problem, &maps.k);
    if (error == cudaSuccess) error = EncodePages(kv.v, problem, &maps.v);
    if (error != cudaSuccess) return error;
  }
  problem.workspace = WorkspaceOf(context, AttentionSm90WorkspaceBytes(problem));
  return LaunchAttentionSm90(context.stream, problem, maps);
}

}  // namespace

// All attention of a GPU over keys and values in bfloat16 takes one path, because tensor cores need
// not add alike in both.
cudaError_t PagedAttention(const Context& context, const PagedAttentionArgs& args) {
  AttentionProblem problem{.act_bf16 = args.q.dtype() == DType::kBF16,
                           .kv_bf16 = args.kv.k.dtype() == DType::kBF16,
                           .q = args.q.data(),
                           .q_stride = args.q.stride0(),
                           .k = args.kv.k.data(),
                           .v = args.kv.v.data(),
                           .block_stride = args.kv.k.stride0(),
                           .block_tables = args.block_tables.as<int32_t>(),
                           .table_stride = args.block_tables.stride0(),
                           .cu_seqlens = args.cu_seqlens.as<int32_t>(),
                           .context_lens = args.context_lens.as<int32_t>(),
                           .out = args.out.data(),
                           .out_stride = args.out.stride0(),
                           .tokens = static_cast<int32_t>(args.q.dim(0)),
                           .sequences = static_cast<int32_t>(args.context_lens.dim(0)),
                           .max_context = LongestContext(args),
                           .q_heads = args.num_q_heads,
                           .kv_heads = args.num_kv_heads,
                           .head_dim = static_cast<int32_t>(args.kv.k.dim(3)),
                           .block_size = static_cast<int32_t>(args.kv.k.dim(2)),
                           .window = args.window,
                           .scale = args.scale};
  if (problem.kv_bf16 && context.compute_capability == kSm90Capability) {
    return LaunchOnSm90(context, args.kv, problem);
  }
  problem.workspace = WorkspaceOf(context, AttentionWorkspaceBytes(problem));
  return LaunchPagedAttention(context.stream, problem);
}

}  // namespace tessera::cuda
