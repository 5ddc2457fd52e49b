// cuBLASLt as a table of functions: loaded at run time, or the stand-in for emulated GPUs.
#ifndef TESSERA_KERNELS_CUDA_CUBLAS_LIBRARY_H_
#define TESSERA_KERNELS_CUDA_CUBLAS_LIBRARY_H_

#include <cublasLt.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::cuda {

struct CublasLibrary {
  size_t version = 0;
  decltype(&::cublasLtCreate) create = nullptr;
  decltype(&::cublasLtDestroy) destroy = nullptr;
  decltype(&::cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&::cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&::cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&::cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&::cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&::cublasLtMatmul) matmul = nullptr;
};

// Opens the first of the shared libraries that there is (names that the system looks for, or
// paths); it stays open. FAILED_PRECONDITION, with a sentence that says what is missing and what to
// install, when there is none or it is too old. Any thread.
absl::StatusOr<CublasLibrary> LoadCublas(const std::vector<std::string>& files = {
                                             "libcublasLt.so.13", "libcublasLt.so.12"});

#ifdef SIMT_EMULATED
// Multiplies on emulated GPUs: in one order for up to eight rows, in another one for more, so that
// bits depend on the batch as they may with the real one.
CublasLibrary FakeCublas();
#endif

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUBLAS_LIBRARY_H_
