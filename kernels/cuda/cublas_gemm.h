// Products by NVIDIA's cuBLASLt instead of our kernels: it chooses how to multiply by the number of
// rows too, so a row's bits may depend on what else is in the batch.
#ifndef TESSERA_KERNELS_CUDA_CUBLAS_GEMM_H_
#define TESSERA_KERNELS_CUDA_CUBLAS_GEMM_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/kernels/gemm.h"

namespace tessera::cuda {

// Of one device, used by the thread that drives it.
class CublasGemm {
 public:
  // RESOURCE_EXHAUSTED without room for the workspace. `device` outlives the object.
  static absl::StatusOr<std::unique_ptr<CublasGemm>> Create(CudaDevice* device,
                                                            const CublasLibrary& library);
  ~CublasGemm();
  CublasGemm(const CublasGemm&) = delete;
  CublasGemm& operator=(const CublasGemm&) = delete;

  // Whether the library can compute this product, which has neither groups nor bias. What it says
  // of a shape is remembered.
  bool Takes(const GemmProblem& problem);
  // Enqueues a product that it takes, on the device's stream.
  cudaError_t Launch(const GemmProblem& problem);

 private:
  struct Plan;
  using Key = std::array<int64_t, 11>;

  CublasGemm(CudaDevice* device, const CublasLibrary& library);
  static Key KeyOf(const GemmProblem& problem);
  const Plan& PlanOf(const GemmProblem& problem);
  bool Prepare(const GemmProblem& problem, Plan* plan);
  bool Choose(const GemmProblem& problem, Plan* plan);

  CudaDevice& device_;
  const CublasLibrary library_;
  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUBLAS_GEMM_H_
