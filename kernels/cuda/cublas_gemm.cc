#include "kernels/cuda/cublas_gemm.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera::cuda {
namespace {

// NVIDIA's advice for Hopper. Its address must not change: graphs hold it.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr uint32_t kMostAlignment = 256;  // the largest that the library cares about

// Of an address and of a stride between rows.
uint32_t AlignmentOf(const void* address, int64_t stride_bytes) {
  const uint64_t bits =
      reinterpret_cast<uintptr_t>(address) | static_cast<uint64_t>(stride_bytes) | kMostAlignment;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

int64_t InBytes(const GemmProblem& problem) { return problem.bf16 ? 2 : 4; }
int64_t OutBytes(const GemmProblem& problem) { return problem.out_bf16 ? 2 : 4; }

cudaError_t ToCudaError(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return cudaSuccess;
    case CUBLAS_STATUS_ALLOC_FAILED:
      return cudaErrorMemoryAllocation;
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return cudaErrorLaunchFailure;
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

// How a shape is multiplied. Matrices of the library are column-major: out^T = weight x^T, where
// the transposed ones are our rows.
struct CublasGemm::Plan {
  explicit Plan(const CublasLibrary& functions) : library(functions) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {weight, x, out}) {
      if (layout != nullptr) library.layout_destroy(layout);
    }
    if (desc != nullptr) library.desc_destroy(desc);
  }

  const CublasLibrary& library;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t weight = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool usable = false;
};

CublasGemm::CublasGemm(CudaDevice* device, const CublasLibrary& library)
    : device_(*device), library_(library) {}

absl::StatusOr<std::unique_ptr<CublasGemm>> CublasGemm::Create(CudaDevice* device,
                                                               const CublasLibrary& library) {
  std::unique_ptr<CublasGemm> gemm(new CublasGemm(device, library));
  ASSIGN_OR_RETURN(gemm->workspace_,
                   device->AllocateUncleared(kWorkspaceBytes, "the workspace of cuBLASLt"));
  const cublasStatus_t status = library.create(&gemm->handle_);
  if (status == CUBLAS_STATUS_SUCCESS) return gemm;
  return absl::InternalError(absl::StrCat("cuBLASLt cannot be used on GPU ", device->index(),
                                          ": cublasLtCreate returned ", static_cast<int>(status)));
}

CublasGemm::~CublasGemm() {
  plans_.clear();
  if (handle_ != nullptr) library_.destroy(handle_);
}

CublasGemm::Key CublasGemm::KeyOf(const GemmProblem& p) {
  return {p.rows,
          p.n,
          p.k,
          p.x_stride,
          p.weight_stride,
          p.out_stride,
          p.bf16 ? 1 : 0,
          p.out_bf16 ? 1 : 0,
          AlignmentOf(p.x, p.x_stride * InBytes(p)),
          AlignmentOf(p.weight, p.weight_stride * InBytes(p)),
          AlignmentOf(p.out, p.out_stride * OutBytes(p))};
}

bool CublasGemm::Choose(const GemmProblem& p, Plan* plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  if (library_.preference_create(&preference) != CUBLAS_STATUS_SUCCESS) return false;
  bool ok = true;
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    ok = ok && library_.preference_set(preference, attribute, &value, sizeof(value)) ==
                   CUBLAS_STATUS_SUCCESS;
  };
  const uint32_t out = AlignmentOf(p.out, p.out_stride * OutBytes(p));
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
      AlignmentOf(p.weight, p.weight_stride * InBytes(p)));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(p.x, p.x_stride * InBytes(p)));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  ok = ok &&
       library_.heuristic(handle_, plan->desc, plan->weight, plan->x, plan->out, plan->out,
                          preference, 1, &best, &found) == CUBLAS_STATUS_SUCCESS &&
       found == 1 && best.state == CUBLAS_STATUS_SUCCESS;
  library_.preference_destroy(preference);
  plan->algorithm = best.algo;
  return ok;
}

bool CublasGemm::Prepare(const GemmProblem& p, Plan* plan) {
  const cudaDataType in = p.bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const cudaDataType out = p.out_bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  // Sums in fp32; of fp32 factors the products too, never TF32.
  return library_.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
             CUBLAS_STATUS_SUCCESS &&
         library_.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                           sizeof(transposed)) == CUBLAS_STATUS_SUCCESS &&
         library_.layout_create(&plan->weight, in, p.k, p.n, p.weight_stride) ==
             CUBLAS_STATUS_SUCCESS &&
         library_.layout_create(&plan->x, in, p.k, p.rows, p.x_stride) == CUBLAS_STATUS_SUCCESS &&
         library_.layout_create(&plan->out, out, p.n, p.rows, p.out_stride) ==
             CUBLAS_STATUS_SUCCESS &&
         Choose(p, plan);
}

const CublasGemm::Plan& CublasGemm::PlanOf(const GemmProblem& problem) {
  std::unique_ptr<Plan>& plan = plans_[KeyOf(problem)];
  if (plan == nullptr) {
    plan = std::make_unique<Plan>(library_);
    plan->usable = Prepare(problem, plan.get());
  }
  return *plan;
}

bool CublasGemm::Takes(const GemmProblem& problem) {
  TESSERA_CHECK(problem.offsets == nullptr && problem.bias == nullptr);
  return problem.rows > 0 && problem.n > 0 && problem.k > 0 && PlanOf(problem).usable;
}

cudaError_t CublasGemm::Launch(const GemmProblem& problem) {
  const Plan& plan = PlanOf(problem);
  const float one = 1;
  const float zero = 0;
  return ToCudaError(library_.matmul(handle_, plan.desc, &one, problem.weight, plan.weight,
                                     problem.x, plan.x, &zero, problem.out, plan.out, problem.out,
                                     plan.out, &plan.algorithm, workspace_.data(),
                                     workspace_.bytes(), device_.stream()));
}

}  // namespace tessera::cuda
