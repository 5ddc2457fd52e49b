#include "kernels/cuda/cublas_library.h"

namespace tessera::cuda {

CublasLibrary FakeCublas() {
  return {.version = cublasLtGetVersion(),
          .create = cublasLtCreate,
          .destroy = cublasLtDestroy,
          .desc_create = cublasLtMatmulDescCreate,
          .desc_destroy = cublasLtMatmulDescDestroy,
          .desc_set = cublasLtMatmulDescSetAttribute,
          .layout_create = cublasLtMatrixLayoutCreate,
          .layout_destroy = cublasLtMatrixLayoutDestroy,
          .preference_create = cublasLtMatmulPreferenceCreate,
          .preference_destroy = cublasLtMatmulPreferenceDestroy,
          .preference_set = cublasLtMatmulPreferenceSetAttribute,
          .heuristic = cublasLtMatmulAlgoGetHeuristic,
          .matmul = cublasLtMatmul};
}

}  // namespace tessera::cuda
