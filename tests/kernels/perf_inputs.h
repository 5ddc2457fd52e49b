// What the programs that measure operations (perf.h, tests/gpu/kernel_shares.h) measure them with.
#ifndef TESSERA_TESTS_KERNELS_PERF_INPUTS_H_
#define TESSERA_TESTS_KERNELS_PERF_INPUTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {

// The keys and values of "--key=value"; the value is empty where there is no "=".
std::vector<std::pair<std::string, std::string>> KeysAndValues(
    const std::vector<std::string>& arguments);

// Bits of small bfloat16 numbers, much faster to make than normal variates; the same numbers in
// every call. They stay until more are asked for. One thread.
const uint16_t* SmallBFloat16Bits(int64_t count);

// [rows, cols] of them, kept in `dtype`.
std::unique_ptr<Weight> SmallWeight(Ops& ops, int64_t rows, int64_t cols, DType dtype);

// Sequences of equal length whose blocks lie anywhere in the cache: `query` new positions of
// `context`.
struct PagedSequences {
  PagedSequences(Device& device, Random& random, int64_t sequences, int64_t query, int64_t context);

  static constexpr int64_t kBlock = 16;  // positions
  int64_t num_blocks;                    // of all of them
  TestTensor block_tables;               // [sequences, blocks]
  TestTensor cu_seqlens;                 // [sequences + 1]
  TestTensor context_lens;               // [sequences]
  double visible_keys;                   // of one sequence, over all of its queries
};

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_PERF_INPUTS_H_
