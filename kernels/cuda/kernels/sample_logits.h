// One row of logits as the sampler sees it: raw, or after penalties, adjustments, mask and
// temperature, which are applied wherever a logit is read; the row itself is never changed.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_LOGITS_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_LOGITS_H_

#include "kernels/cuda/kernels/sample_block.h"
#include "kernels/cuda/kernels/sample_math.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

// Sets of ids as bits, as in kernels/core/bit_mask.h.
SIMT_DEVICE bool InSet(const uint32_t* words, int id) {
  return (words[id / 32] >> (id % 32) & 1U) != 0;
}

struct Candidate {
  float logit;
  int32_t id;
};

// The descending order of the contract: equal logits by ascending id.
SIMT_DEVICE bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

struct Logits {
  const float* row = nullptr;
  int size = 0;
  float divisor = 1.0F;
  // Null: no penalties.
  const uint32_t* listed = nullptr;
  const int32_t* counts = nullptr;
  float repetition = 1.0F;
  float presence = 0.0F;
  float frequency = 0.0F;
  // Null: no adjustments. Bits of the tokens that occur in the list of `num_adjustments`.
  const uint32_t* adjusted = nullptr;
  const int32_t* adj_tokens = nullptr;
  const float* adj_values = nullptr;
  int num_adjustments = 0;
  const uint32_t* allowed = nullptr;  // null: every token
  float outside = kInfinity;          // what the others lose
};

SIMT_DEVICE bool HasEdits(const Logits& logits) {
  return logits.listed != nullptr || logits.adjusted != nullptr || logits.allowed != nullptr;
}

SIMT_DEVICE float Edited(const Logits& logits, int id, float logit) {
  if (logits.listed != nullptr && InSet(logits.listed, id)) {
    const int count = logits.counts[id];
    logit = logit > 0.0F ? logit / logits.repetition : logit * logits.repetition;
    logit -= logits.frequency * static_cast<float>(count) + (count > 0 ? logits.presence : 0.0F);
  }
  if (logits.adjusted != nullptr && InSet(logits.adjusted, id)) {
    for (int i = 0; i < logits.num_adjustments; ++i) {
      if (logits.adj_tokens[i] == id) logit += logits.adj_values[i];
    }
  }
  if (logits.allowed != nullptr && !InSet(logits.allowed, id)) {
    logit = logits.outside == kInfinity ? -kInfinity : logit - logits.outside;
  }
  return logit;
}

// Four ids that follow each other and share a block of random bits; beyond the row: count < 4.
struct FourLogits {
  int first;
  int count;
  float values[4];
};

// Raw ones. Rows begin at any multiple of 4 bytes.
SIMT_DEVICE FourLogits LoadFour(const Logits& logits, int first) {
  FourLogits four{first, logits.size - first < 4 ? logits.size - first : 4, {}};
  const float* from = logits.row + first;
  if (four.count == 4 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
    const uint4 words = simt::Load16(from);
    four.values[0] = simt::FloatBits(words.x);
    four.values[1] = simt::FloatBits(words.y);
    four.values[2] = simt::FloatBits(words.z);
    four.values[3] = simt::FloatBits(words.w);
    return four;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < four.count) four.values[i] = from[i];
  }
  return four;
}

// Calls visit(Candidate, raw logit) for the ids of this thread, each id in one thread of the team.
template <int kBlocks, typename Visit>
SIMT_DEVICE void ForLogits(const Logits& logits, const Visit& visit) {
  const bool edits = HasEdits(logits);
  for (int first = Team<kBlocks>::Thread() * 4; first < logits.size;
       first += Team<kBlocks>::Threads() * 4) {
    const FourLogits four = LoadFour(logits, first);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i >= four.count) break;
      float value = four.values[i];
      if (edits) value = Edited(logits, first + i, value);
      if (logits.divisor != 1.0F) value /= logits.divisor;
      visit(Candidate{value, first + i}, four.values[i]);
    }
  }
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_LOGITS_H_
