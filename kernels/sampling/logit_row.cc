#include "kernels/sampling/logit_row.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>

namespace tessera::sampling {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kLanes = 16;

// Integers in the order of the floats they stand for: integer maxima vectorise, float maxima do
// not (NaN and signed zeros forbid it). Adding zero turns -0 into +0.
int32_t OrderedKey(float value) {
  const auto bits = std::bit_cast<int32_t>(value + 0.0F);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

float FromOrderedKey(int32_t key) { return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff)); }

constexpr int32_t kKeyOfInfinity = 0x7f800000;
constexpr int32_t kKeyOfMinusInfinity = static_cast<int32_t>(0xff800000U ^ 0x7fffffffU);

struct BlockSummary {
  float largest;
  bool has_nan;
};

// NaNs of either sign lie outside the range of keys of numbers.
BlockSummary Summarize(const float* logits, int64_t count) {
  int32_t high[kLanes];
  int32_t low[kLanes];
  std::fill_n(high, kLanes, kKeyOfMinusInfinity);
  std::fill_n(low, kLanes, kKeyOfInfinity);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t key = OrderedKey(logits[i + lane]);
      high[lane] = key > high[lane] ? key : high[lane];
      low[lane] = key < low[lane] ? key : low[lane];
    }
  }
  for (; i < count; ++i) {
    const int32_t key = OrderedKey(logits[i]);
    high[0] = std::max(high[0], key);
    low[0] = std::min(low[0], key);
  }
  const int32_t largest = *std::max_element(high, high + kLanes);
  const int32_t smallest = *std::min_element(low, low + kLanes);
  return {FromOrderedKey(largest), largest > kKeyOfInfinity || smallest < kKeyOfMinusInfinity};
}

bool Before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace

// 2^n * e^r with n = round(x / ln 2) and the Taylor series of e^r, |r| <= ln 2 / 2: the first term
// left out is 0.35^8 / 8! = 6e-9.
void ExpNonPositive(const float* x, float shift, int64_t count, float* out) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kSmallest = -87.0F;
  for (int64_t i = 0; i < count; ++i) {
    const float value = x[i] - shift;
    const float clamped = value > kSmallest ? value : kSmallest;
    const float rounded = clamped * kLog2E + kRound;
    const float n = rounded - kRound;
    const float r = (clamped - n * kLn2High) - n * kLn2Low;
    float series = 1.0F / 5040;
    series = series * r + 1.0F / 720;
    series = series * r + 1.0F / 120;
    series = series * r + 1.0F / 24;
    series = series * r + 1.0F / 6;
    series = series * r + 0.5F;
    series = series * r + 1.0F;
    series = series * r + 1.0F;
    const int32_t exponent = std::bit_cast<int32_t>(rounded) - std::bit_cast<int32_t>(kRound);
    const float power = std::bit_cast<float>((exponent + 127) << 23);
    out[i] = value > kSmallest ? series * power : 0.0F;
  }
}

LogitRow::LogitRow(const float* logits, int64_t size) : logits_(logits), size_(size) {
  block_largest_.reserve((size + kBlock - 1) / kBlock);
  largest_ = -kInfinity;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const BlockSummary block = Summarize(logits + begin, std::min(kBlock, size - begin));
    block_largest_.push_back(block.largest);
    has_nan_ = has_nan_ || block.has_nan;
    largest_ = block.largest > largest_ ? block.largest : largest_;
  }
}

int32_t LogitRow::ArgMax() const {
  const auto block = std::find(block_largest_.begin(), block_largest_.end(), largest_);
  int64_t id = (block - block_largest_.begin()) * kBlock;
  while (id + 1 < size_ && logits_[id] != largest_) ++id;
  return static_cast<int32_t>(id);
}

double LogitRow::SumExp() const {
  constexpr int64_t kChunk = 1024;
  float weights[kChunk];
  double total = 0;
  for (int64_t begin = 0; begin < size_; begin += kChunk) {
    const int64_t count = std::min(kChunk, size_ - begin);
    ExpNonPositive(logits_ + begin, largest_, count, weights);
    std::fill(weights + count, weights + kChunk, 0.0F);
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < kChunk; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += weights[i + lane];
    }
    for (float lane : lanes) total += lane;
  }
  return total;
}

std::vector<Candidate> LogitRow::AtLeast(float threshold) const {
  std::vector<Candidate> candidates;
  for (size_t block = 0; block < block_largest_.size(); ++block) {
    if (block_largest_[block] < threshold) continue;
    const int64_t begin = static_cast<int64_t>(block) * kBlock;
    const int64_t end = std::min(size_, begin + kBlock);
    for (int64_t id = begin; id < end; ++id) {
      if (logits_[id] >= threshold) candidates.push_back({logits_[id], static_cast<int32_t>(id)});
    }
  }
  return candidates;
}

// At least `count` logits reach the count-th largest block maximum, so nothing below it can be
// among the `count` largest.
std::vector<Candidate> LogitRow::Largest(int64_t count) const {
  count = std::min(count, size_);
  if (count <= 0) return {};
  float threshold = -kInfinity;
  if (count < static_cast<int64_t>(block_largest_.size())) {
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
  const float logit = logits_[id];
  int32_t before = 0;
  for (int64_t i = 0; i < size_; ++i) before += logits_[i] > logit ? 1 : 0;
  for (int32_t i = 0; i < id; ++i) before += logits_[i] == logit ? 1 : 0;
  return before + 1;
}

}  // namespace tessera::sampling
