// Random products for the tests of kernels/cuda/kernels/gemm_sm90.h.
#ifndef TESSERA_TESTS_KERNELS_CUDA_GEMM_SM90_CASE_H_
#define TESSERA_TESTS_KERNELS_CUDA_GEMM_SM90_CASE_H_

#include <string>
#include <vector>

#include "kernels/cuda/kernels/gemm_sm90.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {

struct Sm90Case {
  bool out_bf16 = true;
  int n = 0;
  int k = 0;
  int rows = 0;
  std::vector<int> group_rows;  // not empty: groups instead of `rows`
  int rows_behind = 0;          // rows of out beyond the last group
  int empty_slot = -1;          // group without a weight
  bool indexed = false;
  bool bias = false;
  int x_gap = 0;     // elements between rows
  int x_offset = 0;  // elements by which x misses its alignment
  int out_gap = 0;
  bool workspace = true;
  int multiprocessors = 4;

  int Rows() const;
  std::string Describe() const;
};

// The numbers of a case: rows of x and weights, all values of bfloat16.
struct Sm90Inputs {
  Sm90Inputs(Random& random, const Sm90Case& c);
  std::vector<std::vector<float>> x;
  std::vector<std::vector<float>> weights;  // per group [n k]
  std::vector<float> bias;
  std::vector<int32_t> index;  // the row of x of each row
};

using LaunchSm90 = cudaError_t (*)(cudaStream_t stream, const cuda::GemmProblem& problem,
                                   const cuda::GemmSm90Maps& maps, int multiprocessors);

// Launches it and returns out [Rows() + rows_behind, n]; NaN where nothing was stored. What lies
// between and around the rows must stay as it was. With a report of the emulator the result is
// empty, and the GPUs are as new.
std::vector<float> Multiply(const Sm90Case& c, const Sm90Inputs& inputs, LaunchSm90 launch,
                            std::string* report = nullptr);

// The formula in double precision; NaN for rows of the empty slot and behind the last group.
std::vector<double> Formula(const Sm90Case& c, const Sm90Inputs& inputs);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_CUDA_GEMM_SM90_CASE_H_
