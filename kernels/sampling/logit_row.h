// Selection over one row of logits: finds the largest few of a large vocabulary without sorting it.
#ifndef TESSERA_KERNELS_SAMPLING_LOGIT_ROW_H_
#define TESSERA_KERNELS_SAMPLING_LOGIT_ROW_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/sampling/isa/loops.h"

namespace tessera::sampling {

struct Candidate {
  float logit;
  int32_t id;
};

// The descending order of the contract: equal logits by ascending id.
inline bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// A view of `size` logits (not owned, not changed while the object is used) divided by a positive
// divisor, with the largest quotient of each block of kBlock ids. -0 counts as +0. Division keeps
// the order, so it is done only where a quotient is looked at.
class LogitRow {
 public:
  LogitRow(const float* logits, int64_t size);
  // Writes the logits that `mask` (kernels/core/bit_mask.h) allows to `out`, which may be `logits`,
  // and -inf in place of the others; a view of `out`.
  static LogitRow Masked(const float* logits, const int32_t* mask, int64_t size, float* out);
  // The same logits after some have changed: those of the blocks b with changed[b] != 0,
  // [blocks()]. Not divided.
  LogitRow AfterChanges(const std::vector<uint8_t>& changed) const;
  // The same logits divided by `divisor`, which is finite and positive.
  LogitRow DividedBy(float divisor) const;

  int64_t size() const { return size_; }
  float operator[](int64_t id) const { return logits_[id] / divisor_; }
  bool has_nan() const { return has_nan_; }
  float largest() const { return largest_; }
  int64_t blocks() const { return static_cast<int64_t>(block_largest_.size()); }
  float block_largest(int64_t block) const { return block_largest_[block]; }
  // Calls visit(Candidate) in ascending order for every id of the block.
  template <typename Visit>
  void ForBlock(int64_t block, const Visit& visit) const {
    const int64_t end = (block + 1) * kBlock < size_ ? (block + 1) * kBlock : size_;
    for (int64_t id = block * kBlock; id < end; ++id) {
      visit(Candidate{(*this)[id], static_cast<int32_t>(id)});
    }
  }

  // Needs a largest() that is finite:
  ScaledLogits scaled() const { return {logits_, divisor_, largest_}; }
  // The largest of each block, as if they were a row of blocks() logits.
  ScaledLogits block_maxima() const { return {block_largest_.data(), 1.0F, largest_}; }
  double WeightOf(float logit) const { return std::exp(static_cast<double>(logit) - largest_); }
  // Sum of the weights exp(logit - largest()) of all ids.
  double SumWeights() const;

  // Lowest id that holds the largest logit.
  int32_t ArgMax() const;
  // All ids with logit >= threshold, in ascending order.
  std::vector<Candidate> AtLeast(float threshold) const;
  // The min(count, size) largest, in descending order.
  std::vector<Candidate> Largest(int64_t count) const;
  // Ids before `id` in descending order, plus one.
  int32_t RankOf(int32_t id) const;

 private:
  // A view that is still to be summarised.
  LogitRow(const float* logits, int64_t size, float divisor);
  void FindLargest();

  const float* logits_;
  int64_t size_;
  float divisor_;
  std::vector<float> block_largest_;
  bool has_nan_ = false;
  float largest_ = 0.0F;
};

}  // namespace tessera::sampling

#endif  // TESSERA_KERNELS_SAMPLING_LOGIT_ROW_H_
