#include "kernels/sampling/nucleus.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/sampling/isa/isa.h"

namespace tessera::sampling {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// More than what adding 2^20 weights in another order, or with the errors of Loops::weigh, can
// change of a sum, relative to the sum of all.
constexpr double kUncertain = 1e-9;

// `sorted`: in descending order, all that has weight.
Candidate CutSorted(const LogitRow& row, const std::vector<Candidate>& sorted, double top_p) {
  if (!(top_p < 1.0)) return sorted.back();
  double total = 0;
  for (const Candidate& candidate : sorted) total += row.WeightOf(candidate.logit);
  double prefix = row.WeightOf(sorted[0].logit);
  size_t count = 1;
  while (count < sorted.size() && prefix < top_p * total) {
    prefix += row.WeightOf(sorted[count++].logit);
  }
  return sorted[count - 1];
}

// A row by buckets of its descending order.
class Buckets {
 public:
  explicit Buckets(const LogitRow& row) : row_(row), of_block_(row.blocks()) {
    FastestLoops().bucket(row.block_maxima(), 0, row.blocks(), of_block_.data());
  }

  // Calls visit(begin, count, buckets) for each block that has anything in buckets up to `last`.
  template <typename Visit>
  void ForBlocks(int32_t last, const Visit& visit) const {
    int32_t buckets[kBlock];
    for (int64_t block = 0; block < row_.blocks(); ++block) {
      if (of_block_[block] > last) continue;
      const int64_t begin = block * kBlock;
      const int64_t count = std::min(kBlock, row_.size() - begin);
      FastestLoops().bucket(row_.scaled(), begin, count, buckets);
      visit(begin, count, buckets);
    }
  }
  // In ascending order of ids.
  std::vector<Candidate> Members(int32_t bucket) const;

 private:
  const LogitRow& row_;
  std::vector<int32_t> of_block_;  // of the largest logit of each block
};

std::vector<Candidate> Buckets::Members(int32_t bucket) const {
  std::vector<Candidate> members;
  ForBlocks(bucket, [&](int64_t begin, int64_t count, const int32_t* buckets) {
    for (int64_t i = 0; i < count; ++i) {
      if (buckets[i] == bucket)
        members.push_back({row_[begin + i], static_cast<int32_t>(begin + i)});
    }
  });
  return members;
}

// The count-th of the descending order, 0 < count <= row.size().
Candidate Nth(const LogitRow& row, int64_t count) {
  const Buckets buckets(row);
  std::vector<int32_t> sizes(kBuckets);
  buckets.ForBlocks(kBuckets - 1, [&](int64_t /*begin*/, int64_t ids, const int32_t* bucket_of) {
    for (int64_t i = 0; i < ids; ++i) ++sizes[bucket_of[i]];
  });
  int32_t bucket = 0;
  while (count > sizes[bucket]) count -= sizes[bucket++];
  std::vector<Candidate> members = buckets.Members(bucket);
  std::nth_element(members.begin(), members.begin() + count - 1, members.end(), Before);
  return members[count - 1];
}

// Finds where the prefix sums of the descending order reach `top_p` of the mass of what is not
// after `limit`: adds up by buckets first, and sorts only the bucket where it happens.
class Nucleus {
 public:
  Nucleus(const LogitRow& row, const Candidate& limit, double top_p);

  Candidate Last() const;

 private:
  bool Kept(const Candidate& candidate) const { return !Before(limit_, candidate); }
  std::vector<Candidate> SortedKept(std::vector<Candidate> candidates) const;
  // Nullopt: too close to tell.
  std::optional<Candidate> LastByBuckets() const;

  const LogitRow& row_;
  const Candidate limit_;
  const double top_p_;
  const Buckets buckets_;
  std::vector<double> mass_;  // [kBuckets]
  double total_ = 0;
};

Nucleus::Nucleus(const LogitRow& row, const Candidate& limit, double top_p)
    : row_(row), limit_(limit), top_p_(top_p), buckets_(row), mass_(kBuckets) {
  double weights[kBlock];
  // What lies in the last bucket weighs less than any uncertainty.
  buckets_.ForBlocks(kBuckets - 2, [&](int64_t begin, int64_t count, const int32_t* buckets) {
    FastestLoops().weigh(row.scaled(), begin, count, weights);
    if (limit.logit > -kInfinity) {
      for (int64_t i = 0; i < count; ++i) {
        if (!Kept({row[begin + i], static_cast<int32_t>(begin + i)})) weights[i] = 0;
      }
    }
    for (int64_t i = 0; i < count; ++i) mass_[buckets[i]] += weights[i];
  });
  for (const double mass : mass_) total_ += mass;
}

std::vector<Candidate> Nucleus::SortedKept(std::vector<Candidate> candidates) const {
  const auto cut = [&](const Candidate& candidate) { return !Kept(candidate); };
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(), cut), candidates.end());
  std::sort(candidates.begin(), candidates.end(), Before);
  return candidates;
}

std::optional<Candidate> Nucleus::LastByBuckets() const {
  const double goal = top_p_ * total_;
  const double margin = kUncertain * total_;
  double prefix = 0;
  int32_t bucket = 0;
  while (bucket + 1 < kBuckets && prefix + mass_[bucket] < goal) prefix += mass_[bucket++];
  // The first candidate of all is kept whatever the goal is.
  if (bucket > 0 && prefix > goal - margin) return std::nullopt;
  for (const Candidate& candidate : SortedKept(buckets_.Members(bucket))) {
    prefix += row_.WeightOf(candidate.logit);
    if (prefix > goal + margin) return candidate;
    if (prefix > goal - margin) return std::nullopt;
  }
  return std::nullopt;
}

Candidate Nucleus::Last() const {
  const std::optional<Candidate> last = LastByBuckets();
  if (last) return *last;
  constexpr float kWeightless = 746.0F;  // below the smallest double
  return CutSorted(
      row_, SortedKept(row_.AtLeast(std::max(limit_.logit, row_.largest() - kWeightless))), top_p_);
}

}  // namespace

Candidate LastKept(const LogitRow& row, int64_t top_k, double top_p) {
  constexpr int64_t kFew = 1024;  // cheaper sorted than weighed
  const int64_t count = top_k > 0 ? std::min(top_k, row.size()) : row.size();
  if (count <= kFew) return CutSorted(row, row.Largest(count), top_p);
  const Candidate limit = count < row.size()
                              ? Nth(row, count)
                              : Candidate{-kInfinity, std::numeric_limits<int32_t>::max()};
  return top_p < 1.0 ? Nucleus(row, limit, top_p).Last() : limit;
}

}  // namespace tessera::sampling
