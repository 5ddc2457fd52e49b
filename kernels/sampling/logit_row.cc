#include "kernels/sampling/logit_row.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels/sampling/isa/isa.h"

namespace tessera::sampling {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

LogitRow::LogitRow(const float* logits, int64_t size, float divisor)
    : logits_(logits),
      size_(size),
      divisor_(divisor),
      block_largest_((size + kBlock - 1) / kBlock) {}

LogitRow::LogitRow(const float* logits, int64_t size) : LogitRow(logits, size, 1.0F) {
  has_nan_ = FastestLoops().summarize(logits, size, block_largest_.data());
  FindLargest();
}

LogitRow LogitRow::Masked(const float* logits, const int32_t* mask, int64_t size, float* out) {
  LogitRow row(out, size, 1.0F);
  row.has_nan_ =
      FastestLoops().summarize_masked(logits, mask, size, out, row.block_largest_.data());
  row.FindLargest();
  return row;
}

void LogitRow::FindLargest() {
  largest_ = -kInfinity;
  for (const float largest : block_largest_) largest_ = std::max(largest_, largest);
}

LogitRow LogitRow::AfterChanges(const std::vector<uint8_t>& changed) const {
  // Beyond that one pass over all is cheaper than block by block.
  constexpr int64_t kFewOf = 8;
  if (std::accumulate(changed.begin(), changed.end(), int64_t{0}) > blocks() / kFewOf) {
    return {logits_, size_};
  }
  LogitRow row = *this;
  for (int64_t block = 0; block < blocks(); ++block) {
    if (changed[block] == 0) continue;
    const int64_t begin = block * kBlock;
    const bool nan = FastestLoops().summarize(logits_ + begin, std::min(kBlock, size_ - begin),
                                              &row.block_largest_[block]);
    row.has_nan_ = row.has_nan_ || nan;
  }
  row.FindLargest();
  return row;
}

LogitRow LogitRow::DividedBy(float divisor) const {
  LogitRow row = *this;
  row.divisor_ = divisor;
  for (float& largest : row.block_largest_) largest /= divisor;
  row.largest_ /= divisor;
  return row;
}

int32_t LogitRow::ArgMax() const {
  const auto block = std::find(block_largest_.begin(), block_largest_.end(), largest_);
  int64_t id = (block - block_largest_.begin()) * kBlock;
  while (id + 1 < size_ && (*this)[id] != largest_) ++id;
  return static_cast<int32_t>(id);
}

double LogitRow::SumWeights() const { return FastestLoops().sum_weights(scaled(), 0, size_); }

std::vector<Candidate> LogitRow::AtLeast(float threshold) const {
  std::vector<Candidate> candidates;
  for (int64_t block = 0; block < blocks(); ++block) {
    if (block_largest_[block] < threshold) continue;
    ForBlock(block, [&](const Candidate& candidate) {
      if (candidate.logit >= threshold) candidates.push_back(candidate);
    });
  }
  return candidates;
}

// At least `count` logits reach the count-th largest block maximum, so nothing below it can be
// among the `count` largest.
std::vector<Candidate> LogitRow::Largest(int64_t count) const {
  count = std::min(count, size_);
  if (count <= 0) return {};
  float threshold = -kInfinity;
  if (count < blocks()) {
    std::vector<float> maxima = block_largest_;
    std::nth_element(maxima.begin(), maxima.begin() + count - 1, maxima.end(), std::greater<>());
    threshold = maxima[count - 1];
  }
  std::vector<Candidate> candidates = AtLeast(threshold);
  std::nth_element(candidates.begin(), candidates.begin() + count - 1, candidates.end(), Before);
  candidates.resize(count);
  std::sort(candidates.begin(), candidates.end(), Before);
  return candidates;
}

int32_t LogitRow::RankOf(int32_t id) const {
  const float logit = (*this)[id];
  int32_t before = 0;
  for (int64_t block = 0; block < blocks(); ++block) {
    if (block_largest_[block] < logit) continue;
    const int64_t begin = block * kBlock;
    before += FastestLoops().count_greater(scaled(), begin, std::min(kBlock, size_ - begin), logit);
    for (int64_t i = begin; i < std::min<int64_t>(begin + kBlock, id); ++i) {
      before += (*this)[i] == logit ? 1 : 0;
    }
  }
  return before + 1;
}

}  // namespace tessera::sampling
