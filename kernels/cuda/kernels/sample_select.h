// Finds where a row is cut: the last one of the descending order within a number of tokens or a
// share of the mass, without sorting the row.
//
// A radix select over the digits of a candidate's place in the descending order: the distance from
// the largest logit first (it spreads a row over many bins), then the bits of the logit, then
// those of the id. When few candidates share all digits so far they are compared one by one.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_SELECT_H_
#define TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_SELECT_H_

#include "kernels/cuda/kernels/sample_block.h"
#include "kernels/cuda/kernels/sample_logits.h"
#include "kernels/cuda/kernels/sample_math.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {

inline constexpr int kBins = 2048;
inline constexpr int kDigits = 6;
inline constexpr int kListed = 1024;  // candidates that fit on the chip
inline constexpr float kBinsPerUnit = 32.0F;

// Where a digit was found: its value, how many candidates share it, how many there are up to and
// with them, and the measure of those before them.
struct FoundBin {
  uint32_t digit;
  uint32_t count;
  uint64_t through_count;
  uint64_t before;
};

struct SelectShared {
  BlockScratch scratch;
  uint32_t path[kDigits];  // the digits found so far
  FoundBin found;
  Candidate last;
  uint32_t size;  // of the list
  Candidate list[kListed];
  uint64_t list_mass[kListed];
  uint64_t masses[kBins];
  uint32_t counts[kBins];
  // What this block of a team adds to the list.
  uint32_t own_size;
  Candidate own_list[kListed];
};

// Candidates after `after` and not after `last`.
struct Range {
  Candidate after{kInfinity, -1};
  Candidate last{-kInfinity, 0x7fffffff};
};
SIMT_DEVICE bool Contains(const Range& range, const Candidate& candidate) {
  return Before(range.after, candidate) && !Before(range.last, candidate);
}

// The largest of a row is finite, and nothing is NaN.
struct Field {
  Logits logits;
  float largest;
  Range range;
};

// Cuts at `count` candidates, or, when that is 0, where the mass reaches `share` of the range's.
struct Goal {
  uint32_t count;
  double share;
};

SIMT_DEVICE uint32_t DigitOf(int digit, const Candidate& candidate, float largest) {
  constexpr uint32_t kLastBin = kBins - 1;
  const uint32_t key = OrderedKey(candidate.logit);
  const auto id = static_cast<uint32_t>(candidate.id);
  if (digit == 0) {
    const float distance = (largest - candidate.logit) * kBinsPerUnit;
    return distance < kLastBin ? static_cast<uint32_t>(distance) : kLastBin;
  }
  if (digit == 1) return kLastBin - (key >> 21);
  if (digit == 2) return kLastBin - (key >> 10 & kLastBin);
  if (digit == 3) return kLastBin / 2 - (key & kLastBin / 2);
  return digit == 4 ? id >> 11 : id & kLastBin;
}

SIMT_DEVICE bool SharesPath(const Candidate& candidate, int depth, const Field& field,
                            const SelectShared& shared) {
  for (int digit = 0; digit < depth; ++digit) {
    if (DigitOf(digit, candidate, field.largest) != shared.path[digit]) return false;
  }
  return true;
}

// The bins that a block of a team adds up for all.
template <int kBlocks>
SIMT_DEVICE int FirstBin() {
  return Team<kBlocks>::Rank() * (kBins / kBlocks);
}

// Counts, and weighs for a share, by the digit at `depth`; in the bins of this block over the team.
template <int kBlocks>
SIMT_DEVICE void FillBins(const Field& field, int depth, bool weigh, SelectShared& shared) {
  for (int bin = Thread(); bin < kBins; bin += Threads()) {
    shared.counts[bin] = 0;
    shared.masses[bin] = 0;
  }
  __syncthreads();
  ForLogits<kBlocks>(field.logits, [&](const Candidate& candidate, float /*raw*/) {
    if (!Contains(field.range, candidate) || !SharesPath(candidate, depth, field, shared)) return;
    const uint32_t bin = DigitOf(depth, candidate, field.largest);
    simt::ptx::AtomicAddShared(&shared.counts[bin], 1U);
    if (!weigh) return;
    const uint64_t mass = MassOf(candidate.logit, field.largest);
    if (mass != 0) simt::ptx::AtomicAddShared(&shared.masses[bin], mass);
  });
  Team<kBlocks>::Sync();
  if (kBlocks == 1) return;
  const int begin = FirstBin<kBlocks>();
  for (int bin = begin + Thread(); bin < begin + kBins / kBlocks; bin += Threads()) {
    uint32_t count = 0;
    uint64_t mass = 0;
    for (int rank = 0; rank < kBlocks; ++rank) {
      count += Team<kBlocks>::Of(shared.counts[bin], rank);
      if (weigh) mass += Team<kBlocks>::Of(shared.masses[bin], rank);
    }
    shared.counts[bin] = count;  // the others do not look at this block's bins
    shared.masses[bin] = mass;
  }
  __syncthreads();
}

// What share of `total` is meant; at least the first candidate is.
SIMT_DEVICE uint64_t ShareOf(uint64_t total, double share) {
  const double goal = share * static_cast<double>(total);
  if (!(goal > 1.0)) return 1;
  auto units = static_cast<uint64_t>(goal);
  if (static_cast<double>(units) < goal) ++units;
  return units < total ? units : total;
}

// The measure and the count before the bins of this block, and in all.
struct TeamPrefix {
  uint64_t before;
  uint64_t total;
  uint64_t count_before;
};
template <int kBlocks>
SIMT_DEVICE TeamPrefix PrefixOfBlock(uint64_t measure, uint64_t count, SelectShared& shared) {
  TeamPrefix prefix{0, measure, 0};
  if (kBlocks == 1) return prefix;
  SetOwn({measure, static_cast<uint32_t>(count)}, shared.scratch);
  Team<kBlocks>::Sync();
  prefix.total = 0;
  for (int rank = 0; rank < kBlocks; ++rank) {
    const Best of_rank = OwnOf<kBlocks>(shared.scratch, rank);
    if (rank < Team<kBlocks>::Rank()) {
      prefix.before += of_rank.score;
      prefix.count_before += of_rank.id;
    }
    prefix.total += of_rank.score;
  }
  Team<kBlocks>::Sync();
  return prefix;
}

struct Found {
  FoundBin bin;
  uint64_t goal;
};

// The bin where the measure reaches `goal` (0: to be taken from the share).
template <int kBlocks>
SIMT_DEVICE Found FindBin(uint64_t goal, double share, bool weigh, SelectShared& shared) {
  constexpr int kOwnBins = kBins / kBlocks;
  const int per_thread = simt::CeilDiv(kOwnBins, Threads());
  const int from = Thread() * per_thread < kOwnBins ? Thread() * per_thread : kOwnBins;
  const int to = from + per_thread < kOwnBins ? from + per_thread : kOwnBins;
  const int first = FirstBin<kBlocks>();
  uint64_t measure = 0;
  uint64_t count = 0;
  for (int bin = first + from; bin < first + to; ++bin) {
    count += shared.counts[bin];
    measure += weigh ? shared.masses[bin] : shared.counts[bin];
  }
  const Prefix in_block = BlockPrefix(measure, shared.scratch);
  const Prefix counts = BlockPrefix(count, shared.scratch);
  const TeamPrefix team = PrefixOfBlock<kBlocks>(in_block.total, counts.total, shared);
  if (goal == 0) goal = ShareOf(team.total, share);
  uint64_t before = team.before + in_block.before;
  uint64_t through = team.count_before + counts.before;
  if (before < goal && before + measure >= goal) {
    for (int bin = first + from; bin < first + to; ++bin) {
      const uint64_t here = weigh ? shared.masses[bin] : shared.counts[bin];
      through += shared.counts[bin];
      if (before + here >= goal) {
        shared.found = {static_cast<uint32_t>(bin), shared.counts[bin], through, before};
        break;
      }
      before += here;
    }
  }
  const bool here = team.before < goal && team.before + in_block.total >= goal;
  const Best finder = TeamBest<kBlocks>(
      Best{here ? 1ULL : 0ULL, static_cast<uint32_t>(Team<kBlocks>::Rank())}, shared.scratch);
  const FoundBin found = Team<kBlocks>::Of(shared.found, static_cast<int>(finder.id));
  Team<kBlocks>::Sync();
  return {found, goal};
}

// Fills the list with what of the range `wanted` says; at most kListed candidates. Every block of a
// team gets all of it.
template <int kBlocks, typename Wanted>
SIMT_DEVICE void Collect(const Field& field, SelectShared& shared, const Wanted& wanted) {
  Candidate* list = kBlocks == 1 ? shared.list : shared.own_list;
  uint32_t& size = kBlocks == 1 ? shared.size : shared.own_size;
  if (Thread() == 0) size = 0;
  __syncthreads();
  ForLogits<kBlocks>(field.logits, [&](const Candidate& candidate, float /*raw*/) {
    if (!Contains(field.range, candidate) || !wanted(candidate)) return;
    list[simt::ptx::AtomicAddShared(&size, 1U)] = candidate;
  });
  Team<kBlocks>::Sync();
  if (kBlocks == 1) return;
  uint32_t begin = 0;
  for (int rank = 0; rank < kBlocks; ++rank) {
    const uint32_t count = Team<kBlocks>::Of(shared.own_size, rank);
    for (uint32_t i = Thread(); i < count; i += Threads()) {
      shared.list[begin + i] = Team<kBlocks>::Of(shared.own_list[i], rank);
    }
    begin += count;
  }
  if (Thread() == 0) shared.size = begin;
  Team<kBlocks>::Sync();
}

// The last candidate of the list, within `range`, where the measure reaches `goal` (0: to be taken
// from the share).
SIMT_DEVICE Candidate CutList(const Field& field, uint64_t goal, double share, bool weigh,
                              SelectShared& shared) {
  const int size = static_cast<int>(shared.size);
  uint64_t measure = 0;
  for (int i = Thread(); i < size; i += Threads()) {
    const Candidate own = shared.list[i];
    uint64_t mass = 0;
    if (Contains(field.range, own)) mass = weigh ? MassOf(own.logit, field.largest) : 1;
    shared.list_mass[i] = mass;
    measure += mass;
  }
  const uint64_t total = BlockSum(measure, shared.scratch);
  if (goal == 0) goal = ShareOf(total, share);
  for (int i = Thread(); i < size; i += Threads()) {
    const Candidate own = shared.list[i];
    uint64_t before = 0;
    for (int j = 0; j < size; ++j) {
      if (Before(shared.list[j], own)) before += shared.list_mass[j];
    }
    if (before < goal && before + shared.list_mass[i] >= goal) shared.last = own;
  }
  __syncthreads();
  const Candidate last = shared.last;
  __syncthreads();
  return last;
}

struct Cut {
  Candidate last;
  bool listed;  // the list holds all that the cut leaves of the range, and perhaps more
};

// The range is not empty, and holds at least goal.count candidates; a share is below 1.
template <int kBlocks>
SIMT_DEVICE Cut Select(const Field& field, const Goal& wanted, SelectShared& shared) {
  const bool weigh = wanted.count == 0;
  uint64_t goal = wanted.count;
#pragma unroll 1
  for (int depth = 0;; ++depth) {
    FillBins<kBlocks>(field, depth, weigh, shared);
    const Found found = FindBin<kBlocks>(goal, wanted.share, weigh, shared);
    const FoundBin& bin = found.bin;
    if (Thread() == 0) shared.path[depth] = bin.digit;
    __syncthreads();
    const bool all_fit = depth == 0 && bin.through_count <= kListed;
    goal = all_fit ? found.goal : found.goal - bin.before;
    if (!all_fit && bin.count > kListed) continue;
    Collect<kBlocks>(field, shared, [&](const Candidate& candidate) {
      return all_fit ? DigitOf(0, candidate, field.largest) <= bin.digit
                     : SharesPath(candidate, depth + 1, field, shared);
    });
    return {CutList(field, goal, 0.0, weigh, shared), all_fit};
  }
}

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_KERNELS_SAMPLE_SELECT_H_
