// Our declarations of cuBLASLt say what NVIDIA's header says: compiled against both.
#include <cublasLt.h>

#include <cstddef>

static_assert(CUDA_R_32F == 0 && CUDA_R_16BF == 14);
static_assert(CUBLAS_STATUS_SUCCESS == 0 && CUBLAS_STATUS_NOT_INITIALIZED == 1);
static_assert(CUBLAS_STATUS_ALLOC_FAILED == 3 && CUBLAS_STATUS_INVALID_VALUE == 7);
static_assert(CUBLAS_STATUS_EXECUTION_FAILED == 13 && CUBLAS_STATUS_NOT_SUPPORTED == 15);
static_assert(CUBLAS_OP_N == 0 && CUBLAS_OP_T == 1 && CUBLAS_COMPUTE_32F == 68);
static_assert(CUBLASLT_MATMUL_DESC_TRANSA == 3 && CUBLASLT_MATMUL_DESC_TRANSB == 4);
static_assert(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES == 1);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES == 5);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES == 6);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES == 7);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES == 8);
static_assert(sizeof(cublasOperation_t) == 4 && sizeof(cublasStatus_t) == 4);
static_assert(sizeof(cublasLtMatmulAlgo_t) == 64);
static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == 96);
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == 64);
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == 72);

// One pointer per function that is called, of the type with which it is.
[[maybe_unused]] static size_t (*const kVersion)() = cublasLtGetVersion;
[[maybe_unused]] static cublasStatus_t (*const kCreate)(cublasLtHandle_t*) = cublasLtCreate;
[[maybe_unused]] static cublasStatus_t (*const kDestroy)(cublasLtHandle_t) = cublasLtDestroy;
[[maybe_unused]] static cublasStatus_t (*const kDesc)(cublasLtMatmulDesc_t*, cublasComputeType_t,
                                                      cudaDataType_t) = cublasLtMatmulDescCreate;
[[maybe_unused]] static cublasStatus_t (*const kDescSet)(cublasLtMatmulDesc_t,
                                                         cublasLtMatmulDescAttributes_t,
                                                         const void*,
                                                         size_t) = cublasLtMatmulDescSetAttribute;
[[maybe_unused]] static cublasStatus_t (*const kLayout)(cublasLtMatrixLayout_t*, cudaDataType,
                                                        uint64_t, uint64_t,
                                                        int64_t) = cublasLtMatrixLayoutCreate;
[[maybe_unused]] static cublasStatus_t (*const kPreferenceSet)(
    cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void*,
    size_t) = cublasLtMatmulPreferenceSetAttribute;
[[maybe_unused]] static cublasStatus_t (*const kHeuristic)(
    cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
    cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
    cublasLtMatmulHeuristicResult_t*, int*) = cublasLtMatmulAlgoGetHeuristic;
[[maybe_unused]] static cublasStatus_t (*const kMatmul)(
    cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*, cublasLtMatrixLayout_t,
    const void*, cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*,
    cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*, void*, size_t,
    cudaStream_t) = cublasLtMatmul;
