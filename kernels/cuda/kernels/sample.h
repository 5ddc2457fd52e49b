// The sampler's launcher. Plain pointers and sizes; what they mean says SampleArgs in
// kernels/ops.h, whose names the fields have.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_H_

#include "kernels/cuda/simt/launch.h"

namespace tessera::cuda {

// Blocks that share a row where clusters are used.
inline constexpr int kSampleCluster = 8;

struct SampleLaunch {
  // A cluster per row: for GPUs that have them (sm_90) and fewer rows than would fill the GPU with
  // one block each. The results do not depend on it.
  bool clusters = false;
  int32_t rows = 0;
  int32_t vocab = 0;  // at most kMaxSampledVocab
  const float* logits = nullptr;
  int64_t logits_stride = 0;  // strides in elements
  const int32_t* forced = nullptr;
  const float* temperature = nullptr;
  const int32_t* top_k = nullptr;
  const float* top_p = nullptr;
  const float* min_p = nullptr;
  const float* repetition_penalty = nullptr;
  const float* presence_penalty = nullptr;
  const float* frequency_penalty = nullptr;
  const int64_t* seed = nullptr;
  const int32_t* position = nullptr;
  const int32_t* penalty_slot = nullptr;
  const int32_t* penalty_reset = nullptr;
  uint32_t* penalty_listed = nullptr;
  int64_t listed_stride = 0;
  int32_t* penalty_counts = nullptr;
  int64_t counts_stride = 0;
  const int32_t* pen_offsets = nullptr;
  const int32_t* pen_tokens = nullptr;
  const int32_t* pen_counts = nullptr;
  const int32_t* adj_offsets = nullptr;
  const int32_t* adj_tokens = nullptr;
  const float* adj_values = nullptr;
  int32_t adjustments = 0;  // of all rows
  const uint32_t* masks = nullptr;
  int64_t masks_stride = 0;
  const int32_t* mask_row = nullptr;
  const float* mask_penalty = nullptr;
  const int32_t* num_logprobs = nullptr;
  int32_t* token = nullptr;
  float* logprob = nullptr;
  int32_t* rank = nullptr;
  int32_t* top_tokens = nullptr;
  int64_t top_tokens_stride = 0;
  float* top_logprobs = nullptr;
  int64_t top_logprobs_stride = 0;
};

// A bit per id must fit beside the rest into the shared memory of every GPU (99 KiB on the
// smallest).
inline constexpr int32_t kMaxSampledVocab = 1 << 18;

// One block per row, or a cluster. Reads the row's logits, of V * 4 bytes, so often:
//   once    greedy or forced, without logprobs
//   twice   drawn from all
//   3 times drawn after top_k or top_p that leave at most about a thousand tokens (4 times when
//           more than that lie within 1/32 of the last one)
//   4 times drawn after top_p that leaves more
//   and once more for logprobs, twice more for alternatives.
// Each ties-only refinement (thousands of logits that agree in the bits looked at so far) reads
// them once more. The logits are left as they were. cudaErrorInvalidValue beyond kMaxSampledVocab.
cudaError_t LaunchSample(cudaStream_t stream, const SampleLaunch& launch);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_H_
