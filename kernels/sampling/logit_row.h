// Selection over one row of logits: finds the largest few of a large vocabulary without sorting it.
#ifndef TESSERA_KERNELS_SAMPLING_LOGIT_ROW_H_
#define TESSERA_KERNELS_SAMPLING_LOGIT_ROW_H_

#include <cstdint>
#include <vector>

namespace tessera::sampling {

struct Candidate {
  float logit;
  int32_t id;
};

// exp(x) for x <= 0, relative error below 1e-6; 0 below -87. Written so that loops vectorise.
void ExpNonPositive(const float* x, float shift, int64_t count, float* out);

// A view of `size` logits (not owned, not changed while the object lives) with the largest logit of
// each block of kBlock ids. -0 counts as +0.
class LogitRow {
 public:
  static constexpr int64_t kBlock = 64;

  LogitRow(const float* logits, int64_t size);

  int64_t size() const { return size_; }
  const float& operator[](int64_t id) const { return logits_[id]; }
  bool has_nan() const { return has_nan_; }
  float largest() const { return largest_; }
  // Lowest id that holds the largest logit.
  int32_t ArgMax() const;
  // Sum over all ids of exp(logit - largest()); needs a finite largest().
  double SumExp() const;
  // All ids with logit >= threshold, in ascending order.
  std::vector<Candidate> AtLeast(float threshold) const;
  // The min(count, size) largest, descending; equal logits by ascending id.
  std::vector<Candidate> Largest(int64_t count) const;
  // Ids before `id` in descending order, plus one.
  int32_t RankOf(int32_t id) const;

 private:
  const float* logits_;
  int64_t size_;
  std::vector<float> block_largest_;
  bool has_nan_ = false;
  float largest_;
};

}  // namespace tessera::sampling

#endif  // TESSERA_KERNELS_SAMPLING_LOGIT_ROW_H_
