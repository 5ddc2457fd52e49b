#include "kernels/cuda/cublas_gemm.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/kernels/gemm.h"
#include "kernels/cuda/kernels/gemm_sm90.h"
#include "kernels/cuda/kernels/sm90.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/tensor_map.h"

namespace tessera::cuda {
namespace {

// What all products have in common. Weights have the type of the activations: it is that of the
// model for both.
GemmProblem ProblemOf(const ConstTensorView& x, const TensorView& out) {
  return {.bf16 = x.dtype() == DType::kBF16,
          .out_bf16 = out.dtype() == DType::kBF16,
          .x = x.data(),
          .x_stride = x.stride0(),
          .rows = static_cast<int32_t>(out.dim(0)),
          .n = static_cast<int32_t>(out.dim(1)),
          .k = static_cast<int32_t>(x.dim(1)),
          .out = out.data(),
          .out_stride = out.stride0()};
}

cudaError_t LaunchOnSm90(const Context& context, GemmProblem& problem, GemmSm90Maps& maps) {
  if (Sm90LoadsX(problem)) {
    const cudaError_t error = EncodeTensorMap({.data = problem.x,
                                               .rows = problem.rows,
                                               .cols = problem.k,
                                               .stride = problem.x_stride,
                                               .box_rows = Sm90TileRows(problem)},
                                              &maps.x);
    if (error != cudaSuccess) return error;
  }
  problem.workspace =
      WorkspaceOf(context, GemmSm90WorkspaceBytes(problem, context.multiprocessors));
  return LaunchGemmSm90(context.stream, problem, maps, context.multiprocessors);
}

// All products of a GPU in bfloat16 take one path, because tensor cores need not add alike in both.
cudaError_t Launch(const Context& context, GemmProblem& problem, GemmSm90Maps& maps) {
  if (problem.bf16 && context.compute_capability == kSm90Capability) {
    return LaunchOnSm90(context, problem, maps);
  }
  problem.workspace = WorkspaceOf(context, GemmWorkspaceBytes(problem));
  return LaunchGemm(context.stream, problem);
}

}  // namespace

cudaError_t Gemm(const Context& context, const GemmArgs& args) {
  const CudaWeight& weight = CudaWeight::Of(*args.weight);
  TESSERA_CHECK(weight.dtype() == args.x.dtype());
  GemmProblem problem = ProblemOf(args.x, args.out);
  problem.weight = weight.data();
  problem.weight_stride = weight.row_stride();
  problem.bias = args.bias.as<float>();
  if (context.cublas != nullptr && problem.bias == nullptr && context.cublas->Takes(problem)) {
    return context.cublas->Launch(problem);
  }
  GemmSm90Maps maps{.weight = weight.map()};
  return Launch(context, problem, maps);
}

cudaError_t GroupedGemm(const Context& context, const GroupedGemmArgs& args) {
  const CudaExpertTable& experts = CudaExpertTable::Of(*args.experts);
  TESSERA_CHECK(!experts.has_weights() || experts.dtype() == args.x.dtype());
  GemmProblem problem = ProblemOf(args.x, args.out);
  problem.weight_stride = experts.row_stride();
  problem.offsets = args.offsets.as<int32_t>();
  problem.weights = experts.addresses();
  problem.num_groups = experts.shape().num_slots;
  problem.row_index = args.row_index.as<int32_t>();
  GemmSm90Maps maps{.weights = experts.maps()};
  return Launch(context, problem, maps);
}

}  // namespace tessera::cuda
