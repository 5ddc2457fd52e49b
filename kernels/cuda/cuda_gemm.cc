#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/kernels/gemm.h"
#include "kernels/cuda/operations.h"

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

cudaError_t Launch(const Context& context, GemmProblem& problem) {
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
  return Launch(context, problem);
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
  return Launch(context, problem);
}

}  // namespace tessera::cuda
