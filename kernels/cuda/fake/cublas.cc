// A stand-in for cuBLASLt, for emulated GPUs: the products that the backend asks for, and no
// others.
#include <cublasLt.h>

#include <cstring>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/cuda/fake/runtime.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  cublasOperation_t a = CUBLAS_OP_N;
  cublasOperation_t b = CUBLAS_OP_N;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType type;
  uint64_t rows, cols;
  int64_t ld;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of a, b, c, d: what callers promise
};

namespace tessera::simt::fake {
namespace {

constexpr uint64_t kFewColumns = 8;

using Layout = cublasLtMatrixLayoutOpaque_t;

size_t ElementBytes(const Layout& layout) { return layout.type == CUDA_R_16BF ? 2 : 4; }

// What algorithms have to know: the promised alignment of each matrix.
struct Promise {
  uint32_t alignment[4];
};
static_assert(sizeof(Promise) <= sizeof(cublasLtMatmulAlgo_t));

bool Keeps(const void* address, const Layout& layout, uint32_t alignment) {
  const uint64_t stride = static_cast<uint64_t>(layout.ld) * ElementBytes(layout);
  return (reinterpret_cast<uintptr_t>(address) | stride) % alignment == 0;
}

struct Product {
  const void* a;
  const void* b;
  void* d;
  Layout a_layout, b_layout, d_layout;
};

// One column, as floats.
std::string ReadColumn(const void* matrix, const Layout& layout, uint64_t column,
                       const StreamPosition& at, std::vector<float>* values) {
  std::vector<char> bytes(layout.rows * ElementBytes(layout));
  const char* from = static_cast<const char*>(matrix) + column * layout.ld * ElementBytes(layout);
  std::string error = emulation::CopyOut(bytes.data(), from, bytes.size(), at);
  values->resize(layout.rows);
  for (uint64_t i = 0; i < layout.rows; ++i) {
    if (layout.type == CUDA_R_32F) {
      std::memcpy(&(*values)[i], bytes.data() + i * 4, 4);
    } else {
      uint16_t bits = 0;
      std::memcpy(&bits, bytes.data() + i * 2, 2);
      (*values)[i] = BF16ToFloat(bits);
    }
  }
  return error;
}

std::string WriteColumn(const std::vector<float>& values, void* matrix, const Layout& layout,
                        uint64_t column, const StreamPosition& at) {
  std::vector<char> bytes(layout.rows * ElementBytes(layout));
  for (uint64_t i = 0; i < layout.rows; ++i) {
    if (layout.type == CUDA_R_32F) {
      std::memcpy(bytes.data() + i * 4, &values[i], 4);
    } else {
      const uint16_t bits = FloatToBF16(values[i]);
      std::memcpy(bytes.data() + i * 2, &bits, 2);
    }
  }
  return emulation::CopyIn(static_cast<char*>(matrix) + column * layout.ld * ElementBytes(layout),
                           bytes.data(), bytes.size(), at);
}

float Dot(const std::vector<float>& a, const std::vector<float>& b, bool backwards) {
  float sum = 0;
  const size_t n = a.size();
  for (size_t i = 0; i < n; ++i) {
    const size_t k = backwards ? n - 1 - i : i;
    sum += a[k] * b[k];
  }
  return sum;
}

// d = a^T b.
std::string Multiply(const Product& p, const StreamPosition& at) {
  const uint64_t n = p.a_layout.cols, m = p.b_layout.cols;
  std::vector<std::vector<float>> a(n);
  for (uint64_t i = 0; i < n; ++i) {
    std::string error = ReadColumn(p.a, p.a_layout, i, at, &a[i]);
    if (!error.empty()) return error;
  }
  std::vector<float> b, d(n);
  for (uint64_t j = 0; j < m; ++j) {
    std::string error = ReadColumn(p.b, p.b_layout, j, at, &b);
    if (!error.empty()) return error;
    for (uint64_t i = 0; i < n; ++i) d[i] = Dot(a[i], b, m > kFewColumns);
    error = WriteColumn(d, p.d, p.d_layout, j, at);
    if (!error.empty()) return error;
  }
  return "";
}

bool Fits(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b,
          const Layout& d) {
  const auto narrow = [](const Layout& x) { return x.ld < static_cast<int64_t>(x.rows); };
  return desc.a == CUBLAS_OP_T && desc.b == CUBLAS_OP_N && a.rows == b.rows && d.rows == a.cols &&
         d.cols == b.cols && a.type == b.type && !narrow(a) && !narrow(b) && !narrow(d);
}

}  // namespace
}  // namespace tessera::simt::fake

using namespace tessera::simt::fake;  // NOLINT: these functions are in no namespace by contract

TESSERA_CUDA_API_BEGIN
size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  cublasOperation_t& target = attribute == CUBLASLT_MATMUL_DESC_TRANSA ? desc->a : desc->b;
  std::memcpy(&target, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  const bool is_size = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
  if (bytes != (is_size ? sizeof(uint64_t) : sizeof(uint32_t))) return CUBLAS_STATUS_INVALID_VALUE;
  void* const target =
      is_size ? static_cast<void*>(&preference->workspace)
              : &preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
  std::memcpy(target, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
  *found = 0;
  if (wanted < 1 || !Fits(*desc, *a, *b, *d)) return CUBLAS_STATUS_INVALID_VALUE;
  // As the real one, which loads 16 bytes at once.
  for (const int matrix : {0, 1}) {
    if (preference->alignment[matrix] < 4) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  Promise promise{};
  std::memcpy(promise.alignment, preference->alignment, sizeof(promise.alignment));
  results[0] = {};
  std::memcpy(&results[0].algo, &promise, sizeof(promise));
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void*,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void*, size_t,
                              cudaStream_t stream) {
  float scale = 0, keep = 1;
  std::memcpy(&scale, alpha, sizeof(scale));
  std::memcpy(&keep, beta, sizeof(keep));
  Promise promise{};
  std::memcpy(&promise, algo, sizeof(promise));
  const bool possible = scale == 1 && keep == 0 && Fits(*desc, *a_layout, *b_layout, *d_layout) &&
                        Keeps(a, *a_layout, promise.alignment[0]) &&
                        Keeps(b, *b_layout, promise.alignment[1]) &&
                        Keeps(d, *d_layout, promise.alignment[3]);
  if (!possible) return CUBLAS_STATUS_INVALID_VALUE;
  const Product product{a, b, d, *a_layout, *b_layout, *d_layout};
  const cudaError_t error =
      Enqueue(stream, {.make = [product]() -> Run {
                return [product](const StreamPosition& at, const Ended& ended) {
                  ended(Multiply(product, at));
                };
              }});
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
TESSERA_CUDA_API_END
