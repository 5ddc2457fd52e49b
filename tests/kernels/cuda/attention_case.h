// Random batches for the tests of kernels/cuda/kernels/attention.h and attention_sm90.h.
#ifndef TESSERA_TESTS_KERNELS_CUDA_ATTENTION_CASE_H_
#define TESSERA_TESTS_KERNELS_CUDA_ATTENTION_CASE_H_

#include <string>
#include <vector>

#include "kernels/cuda/kernels/attention_sm90.h"
#include "tests/kernels/op_test.h"

namespace tessera::test {

struct AttentionHeads {
  bool act_bf16 = true;
  bool kv_bf16 = true;
  int kv_heads = 1;
  int group = 1;
  int dim = 32;
  int block_size = 16;
  int window = 0;

  int q_width() const { return kv_heads * group * dim; }
  int kv_width() const { return kv_heads * dim; }
  DType kv_dtype() const { return kv_bf16 ? DType::kBF16 : DType::kF32; }
};

// Keys and values by position, queries of the last `queries` positions.
struct AttentionSequence {
  int context = 0;  // 0: padding
  int queries = 0;
  std::vector<float> q;  // [queries, q_width]
  std::vector<float> k;  // [context, kv_width]
  std::vector<float> v;
};

AttentionHeads RandomHeads(Random& random);
AttentionSequence RandomSequence(Random& random, const AttentionHeads& heads, int context,
                                 int queries);
// Positions [begin, end) of a sequence whose queries are those of all its positions.
AttentionSequence Chunk(const AttentionHeads& heads, const AttentionSequence& whole, int begin,
                        int end);
// One to four sequences, some of them padding, some of one query.
std::vector<AttentionSequence> RandomBatch(Random& random, const AttentionHeads& heads);

using LaunchAttention = cudaError_t (*)(cudaStream_t stream, const cuda::AttentionProblem& problem,
                                        const cuda::AttentionSm90Maps& maps);

using LaunchPaged = cudaError_t (*)(cudaStream_t stream, const cuda::AttentionProblem& problem);

// How the memory lies.
struct AttentionLayout {
  int q_gap = 0;      // elements between rows
  int kv_offset = 0;  // elements by which the cache misses its alignment
  bool workspace = true;
  int max_context = 0;             // 0: the longest one
  LaunchAttention sm90 = nullptr;  // instead of LaunchPagedAttention
  LaunchPaged launch = cuda::LaunchPagedAttention;
};

// Launches it, with pages anywhere and NaN wherever no sequence has a position, and returns out
// [queries, q_width]. Nothing else may be written. With a report of the emulator the result is
// empty, and the GPUs are as new.
std::vector<float> Attend(Random& random, const AttentionHeads& heads,
                          const std::vector<AttentionSequence>& batch,
                          const AttentionLayout& layout, std::string* report = nullptr);

// The formula in double precision.
std::vector<double> Expected(const AttentionHeads& heads,
                             const std::vector<AttentionSequence>& batch);

// A prompt's last 40 positions of 270 or 530, in one chunk, must have the same bits alone or beside
// others, one position or a chunk of them, with spans as blocks or in one pass. The queries are
// fp32, so that results are not rounded.
void ExpectSameBitsHoweverItIsCut(Random& random, AttentionHeads heads,
                                  const AttentionLayout& layout);

}  // namespace tessera::test

#endif  // TESSERA_TESTS_KERNELS_CUDA_ATTENTION_CASE_H_
