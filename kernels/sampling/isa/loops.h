// The loops over a vocabulary as a table of functions over raw pointers. Every table is compiled
// from the same source for another instruction set, in a namespace of its own; this header is the
// only one that code of both sides sees, so it holds nothing but plain data. All tables give the
// same bits, except that weights are rounded differently without a fused multiply-add.
#ifndef TESSERA_KERNELS_SAMPLING_ISA_LOOPS_H_
#define TESSERA_KERNELS_SAMPLING_ISA_LOOPS_H_

#include <cstdint>

namespace tessera::sampling {

// Loops see a row as blocks of so many ids; the last one may be shorter.
constexpr int64_t kBlock = 64;

// Mass by distance from the largest logit: kBucketsPerUnit buckets per unit, the last one takes all
// the rest. The bucket of a logit falls with the logit, so buckets are in descending order.
constexpr int32_t kBuckets = 4096;
constexpr float kBucketsPerUnit = 64.0F;

// Logits as they are drawn from: logit / divisor, the division rounded to float.
struct ScaledLogits {
  const float* logits;
  float divisor;
  float largest;  // of all logits / divisor; finite
};

struct Loops {
  const char* name;
  // block_largest[b] = the largest of block b, -0 counting as +0. Returns whether any is NaN; then
  // the maxima mean nothing.
  bool (*summarize)(const float* logits, int64_t size, float* block_largest);
  // Writes the logits whose bit in `mask` (kernels/core/bit_mask.h) is set to `out`, which may be
  // `logits`, and -inf in place of the others; then summarises `out`.
  bool (*summarize_masked)(const float* logits, const int32_t* mask, int64_t size, float* out,
                           float* block_largest);
  // Of each of the ids [begin, begin + count): exp(logit - largest) with a relative error below
  // 1e-13, 0 below -700.
  void (*weigh)(const ScaledLogits& row, int64_t begin, int64_t count, double* weights);
  // The sum of these, in an order fixed by `count`.
  double (*sum_weights)(const ScaledLogits& row, int64_t begin, int64_t count);
  // The bucket of each of them.
  void (*bucket)(const ScaledLogits& row, int64_t begin, int64_t count, int32_t* buckets);
  // How many of them are greater than `limit`.
  int32_t (*count_greater)(const ScaledLogits& row, int64_t begin, int64_t count, float limit);
  // The random bits (kernels/core/philox.h) of the kBlock ids of a block, when any of them is at
  // least `least`; otherwise returns false, and `draws` holds nothing.
  bool (*draws_of_block)(uint64_t seed, uint32_t position, uint32_t block, uint32_t least,
                         uint32_t* draws);
};

const Loops& PortableLoops();
#if defined(__x86_64__)
const Loops& Avx2Loops();    // needs AVX2 and FMA
const Loops& Avx512Loops();  // needs AVX-512 F, BW, DQ and VL
#endif

}  // namespace tessera::sampling

#endif  // TESSERA_KERNELS_SAMPLING_ISA_LOOPS_H_
