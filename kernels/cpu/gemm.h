// Cutting matrix products into tasks.
#ifndef TESSERA_KERNELS_CPU_GEMM_H_
#define TESSERA_KERNELS_CPU_GEMM_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/context.h"
#include "kernels/cpu/weight.h"

namespace tessera::cpu {

// out[r] = x[row r] w^T (+ bias) for `rows` rows; row r is row_index[r] of x when given.
struct Product {
  const PackedWeight* weight;
  const float* x;
  int64_t x_stride;
  const int32_t* row_index;  // or null
  int64_t rows;
  float* out;
  int64_t out_stride;
  const float* bias;  // or null
};

// Runs all products, each cut into blocks of rows and groups of panels of about equal cost.
void Multiply(const Context& context, const std::vector<Product>& products);

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_GEMM_H_
