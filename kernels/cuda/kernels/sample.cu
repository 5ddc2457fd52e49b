#include "kernels/cuda/kernels/sample.h"
#include "kernels/cuda/kernels/sample_logits.h"
#include "kernels/cuda/kernels/sample_math.h"
#include "kernels/cuda/kernels/sample_select.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda {
namespace {

using simt::LaunchShape;

constexpr int kMaxThreads = kMaxWarps * simt::kWarpSize;
constexpr int32_t kPaddedRow = -2;
constexpr int32_t kCandidateRow = -3;
constexpr float kGreedyBelow = 1e-5F;
constexpr int32_t kNoToken = -1;

struct SampleShared {
  SelectShared select;
  double favourite_score;
};

SIMT_HOST_DEVICE int SetWords(int size) { return (size + 31) / 32; }

// What one look at a row tells.
struct Summary {
  bool nan;
  float largest;
  int32_t lowest_id;  // of the largest
};
SIMT_DEVICE bool IsFinite(float value) { return simt::Abs(value) < kInfinity; }

// A row's part of the penalty table; null without a slot.
struct Slot {
  uint32_t* listed = nullptr;
  int32_t* counts = nullptr;
};

SIMT_DEVICE Slot SlotOf(const SampleLaunch& args, int n) {
  const int32_t slot = args.penalty_slot[n];
  if (slot < 0) return {};
  return {args.penalty_listed + slot * args.listed_stride,
          args.penalty_counts + slot * args.counts_stride};
}

// The slot begins anew with the row's list, whose tokens are distinct.
SIMT_DEVICE void ResetSlot(const SampleLaunch& args, int n, const Slot& slot) {
  for (int word = Thread(); word < SetWords(args.vocab); word += Threads()) slot.listed[word] = 0;
  __syncthreads();
  for (int i = args.pen_offsets[n] + Thread(); i < args.pen_offsets[n + 1]; i += Threads()) {
    const int32_t token = args.pen_tokens[i];
    simt::ptx::AtomicAddRelaxed(&slot.listed[token / 32], 1U << (token % 32));
    slot.counts[token] = args.pen_counts[i];
  }
  __syncthreads();
}

SIMT_DEVICE void CountToken(const Slot& slot, int32_t token) {
  slot.counts[token] = InSet(slot.listed, token) ? slot.counts[token] + 1 : 1;
  slot.listed[token / 32] |= 1U << (token % 32);
}

// The row as its token is drawn; fills `adjusted`.
SIMT_DEVICE Logits DrawnLogits(const SampleLaunch& args, int n, const Slot& slot,
                               uint32_t* adjusted) {
  Logits logits{.row = args.logits + n * args.logits_stride, .size = args.vocab};
  const float temperature = args.temperature[n];
  if (!(temperature < kGreedyBelow)) logits.divisor = temperature;
  if (slot.listed != nullptr) {
    logits.listed = slot.listed;
    logits.counts = slot.counts;
    logits.repetition = args.repetition_penalty[n];
    logits.presence = args.presence_penalty[n];
    logits.frequency = args.frequency_penalty[n];
  }
  if (args.mask_row[n] >= 0) logits.allowed = args.masks + args.mask_row[n] * args.masks_stride;
  if (args.forced[n] == kCandidateRow) logits.outside = args.mask_penalty[n];
  const int32_t begin = args.adj_offsets[n];
  logits.num_adjustments = args.adj_offsets[n + 1] - begin;
  if (logits.num_adjustments == 0) return logits;
  logits.adjusted = adjusted;
  logits.adj_tokens = args.adj_tokens + begin;
  logits.adj_values = args.adj_values + begin;
  for (int word = Thread(); word < SetWords(args.vocab); word += Threads()) adjusted[word] = 0;
  __syncthreads();
  for (int i = Thread(); i < logits.num_adjustments; i += Threads()) {
    const int32_t token = logits.adj_tokens[i];
    simt::ptx::AtomicOrShared(&adjusted[token / 32], 1U << (token % 32));
  }
  __syncthreads();
  return logits;
}

SIMT_DEVICE Best Larger(const Best& best, const Candidate& candidate) {
  return BetterOf(best, Best{OrderedKey(candidate.logit), static_cast<uint32_t>(candidate.id)});
}

template <int kBlocks>
SIMT_DEVICE Summary Summarize(Best best, bool nan, BlockScratch& scratch) {
  best = TeamBest<kBlocks>(best, scratch);
  return {TeamSum<kBlocks>(nan ? 1 : 0, scratch) != 0,
          FromOrderedKey(static_cast<uint32_t>(best.score)), static_cast<int32_t>(best.id)};
}

struct Summaries {
  Summary raw;
  Summary drawn;
};
template <int kBlocks>
SIMT_DEVICE Summaries LookAt(const Logits& logits, BlockScratch& scratch) {
  const bool same = !HasEdits(logits) && logits.divisor == 1.0F;
  Best raw;
  Best drawn;
  bool raw_nan = false;
  bool drawn_nan = false;
  ForLogits<kBlocks>(logits, [&](const Candidate& candidate, float logit) {
    raw = Larger(raw, Candidate{logit, candidate.id});
    raw_nan = raw_nan || IsNan(logit);
    if (same) return;
    drawn = Larger(drawn, candidate);
    drawn_nan = drawn_nan || IsNan(candidate.logit);
  });
  const Summary summary = Summarize<kBlocks>(raw, raw_nan, scratch);
  return {summary, same ? summary : Summarize<kBlocks>(drawn, drawn_nan, scratch)};
}

// The Gumbel-max draw over what is left of a row.
template <int kBlocks>
class Race {
 public:
  SIMT_DEVICE Race(const SampleLaunch& args, int n, const Field& field, int32_t favourite)
      : field_(field),
        seed_(static_cast<uint64_t>(args.seed[n])),
        position_(static_cast<uint32_t>(args.position[n])),
        min_weight_(args.min_p[n]),
        favourite_(favourite) {}

  // Whoever runs must beat the favourite, the first of all, which always runs.
  SIMT_DEVICE void Begin(SampleShared& shared) {
    if (Thread() == 0) shared.favourite_score = GumbelScore(field_.largest, BitsOf(favourite_));
    __syncthreads();
    score_ = shared.favourite_score;
    id_ = favourite_;
  }
  SIMT_DEVICE void RunAll() {
    const Logits& logits = field_.logits;
    std::array<uint32_t, 4> draws{};
    ForLogits<kBlocks>(logits, [&](const Candidate& candidate, float /*raw*/) {
      const int lane = candidate.id % 4;
      if (lane == 0) {
        draws = DrawsOfGroup(seed_, position_, static_cast<uint32_t>(candidate.id) / 4);
      }
      Enter(candidate, Pick(draws, lane));
    });
  }
  SIMT_DEVICE void RunListed(const SelectShared& shared) {
    for (int i = Thread(); i < static_cast<int>(shared.size); i += Threads()) {
      Enter(shared.list[i], BitsOf(shared.list[i].id));
    }
  }
  SIMT_DEVICE int32_t Winner(BlockScratch& scratch) const {
    return static_cast<int32_t>(
        TeamBest<kBlocks>(Best{OrderedKey(score_), static_cast<uint32_t>(id_)}, scratch).id);
  }

 private:
  SIMT_DEVICE static uint32_t Pick(const std::array<uint32_t, 4>& draws, int lane) {
    const uint32_t low = lane == 0 ? draws[0] : draws[1];
    const uint32_t high = lane == 2 ? draws[2] : draws[3];
    return lane < 2 ? low : high;
  }
  SIMT_DEVICE uint32_t BitsOf(int32_t id) const {
    return Pick(DrawsOfGroup(seed_, position_, static_cast<uint32_t>(id) / 4), id % 4);
  }
  SIMT_DEVICE void Enter(const Candidate& candidate, uint32_t bits) {
    if (!MayReach(candidate.logit, bits, static_cast<float>(score_))) return;
    if (!Contains(field_.range, candidate)) return;
    if (min_weight_ > 0.0 && candidate.id != favourite_ &&
        PortableExp(static_cast<double>(candidate.logit) - field_.largest) < min_weight_) {
      return;
    }
    const double score = GumbelScore(candidate.logit, bits);
    if (score < score_ || (score == score_ && candidate.id > id_)) return;
    score_ = score;
    id_ = candidate.id;
  }

  const Field& field_;
  const uint64_t seed_;
  const uint32_t position_;
  const double min_weight_;
  const int32_t favourite_;
  double score_ = 0;
  int32_t id_ = 0;
};

// Narrows the field to what top_k (step 0) or top_p (step 1) leaves of it. Returns whether the list
// holds all of that.
template <int kBlocks>
SIMT_DEVICE bool Narrow(const SampleLaunch& args, int n, int step, bool listed, Field& field,
                        SelectShared& shared) {
  const int32_t top_k = args.top_k[n];
  const double top_p = args.top_p[n];
  const bool by_mass = step == 1;
  const bool cuts = by_mass ? top_p < 1.0 : top_k > 0 && top_k < args.vocab;
  if (!cuts) return listed;
  if (listed) {
    field.range.last = CutList(field, 0, top_p, /*weigh=*/true, shared);
    return true;
  }
  const Cut cut =
      Select<kBlocks>(field, {by_mass ? 0U : static_cast<uint32_t>(top_k), top_p}, shared);
  field.range.last = cut.last;
  if (cut.listed || by_mass || top_k > kListed) return cut.listed;
  Collect<kBlocks>(field, shared, [](const Candidate& /*candidate*/) { return true; });
  return true;
}

// The token of a row whose largest logit is finite.
template <int kBlocks>
SIMT_DEVICE int32_t Draw(const SampleLaunch& args, int n, Field& field, int32_t favourite,
                         SampleShared& shared) {
  if (args.top_k[n] == 1) return favourite;
  bool listed = false;
#pragma unroll 1
  for (int step = 0; step < 2; ++step) {
    listed = Narrow<kBlocks>(args, n, step, listed, field, shared.select);
  }
  Race<kBlocks> race(args, n, field, favourite);
  race.Begin(shared);
  if (listed) {
    race.RunListed(shared.select);
  } else {
    race.RunAll();
  }
  return race.Winner(shared.select.scratch);
}

template <int kBlocks>
SIMT_DEVICE int32_t TokenOf(const SampleLaunch& args, int n, const Logits& logits,
                            const Summary& drawn, SampleShared& shared) {
  if (drawn.nan || drawn.largest == -kInfinity) return kNoToken;
  if (args.temperature[n] < kGreedyBelow || drawn.largest == kInfinity) return drawn.lowest_id;
  Field field{logits, drawn.largest, {}};
  return Draw<kBlocks>(args, n, field, drawn.lowest_id, shared);
}

SIMT_DEVICE void WriteAlternative(const SampleLaunch& args, int n, int64_t at, int32_t id,
                                  float logprob) {
  args.top_tokens[n * args.top_tokens_stride + at] = id;
  args.top_logprobs[n * args.top_logprobs_stride + at] = logprob;
}

SIMT_DEVICE void WriteChosen(const SampleLaunch& args, int n, float logprob, int rank) {
  if (Thread() != 0) return;
  args.logprob[n] = logprob;
  args.rank[n] = rank;
}

// Alternatives [begin, wanted) that no token is left for.
SIMT_DEVICE void WriteMissing(const SampleLaunch& args, int n, int begin) {
  for (int at = begin + Thread(); at < args.num_logprobs[n]; at += Threads()) {
    WriteAlternative(args, n, at, kNoToken, -kInfinity);
  }
}

// The largest of a row in descending order, as many at a time as fit on the chip.
template <int kBlocks>
SIMT_DEVICE void WriteAlternatives(const SampleLaunch& args, int n, Field field, double log_total,
                                   SelectShared& shared) {
  const int wanted = args.num_logprobs[n] < args.vocab ? args.num_logprobs[n] : args.vocab;
  for (int done = 0; done < wanted; done += kListed) {
    const int count = wanted - done < kListed ? wanted - done : kListed;
    field.range.last = Range{}.last;
    const Cut cut = Select<kBlocks>(field, {static_cast<uint32_t>(count), 0.0}, shared);
    field.range.last = cut.last;
    if (!cut.listed) {
      Collect<kBlocks>(field, shared, [](const Candidate& /*candidate*/) { return true; });
    }
    const int size = Team<kBlocks>::Rank() == 0 ? static_cast<int>(shared.size) : 0;
    for (int i = Thread(); i < size; i += Threads()) {
      const Candidate own = shared.list[i];
      if (!Contains(field.range, own)) continue;
      int at = done;
      for (int j = 0; j < size; ++j) {
        if (Before(shared.list[j], own)) ++at;
      }
      const bool possible = own.logit != -kInfinity || args.forced[n] != kCandidateRow;
      WriteAlternative(args, n, at, possible ? own.id : kNoToken,
                       static_cast<float>(own.logit - log_total));
    }
    __syncthreads();
    field.range.after = cut.last;
  }
  if (Team<kBlocks>::Rank() == 0) WriteMissing(args, n, wanted);
}

template <int kBlocks>
SIMT_DEVICE void ReportLogprobs(const SampleLaunch& args, int n, const Field& raw,
                                const Field& listed, int32_t token, SampleShared& shared) {
  uint64_t mass = 0;
  uint64_t before = 0;
  const Candidate chosen{token < 0 ? 0.0F : raw.logits.row[token], token};
  ForLogits<kBlocks>(raw.logits, [&](const Candidate& candidate, float /*raw*/) {
    mass += RoughMassOf(candidate.logit, raw.largest);
    if (token >= 0 && Before(candidate, chosen)) ++before;
  });
  mass = TeamSum<kBlocks>(mass, shared.select.scratch);
  before = TeamSum<kBlocks>(before, shared.select.scratch);
  const double log_total = raw.largest + PortableLog(static_cast<double>(mass) / kMassUnits);
  if (Team<kBlocks>::Rank() == 0) {
    const double logprob = token < 0 ? -kInfinity : chosen.logit - log_total;
    WriteChosen(args, n, static_cast<float>(logprob), token < 0 ? 0 : static_cast<int>(before) + 1);
  }
  if (listed.largest != -kInfinity) {
    WriteAlternatives<kBlocks>(args, n, listed, log_total, shared.select);
  } else if (Team<kBlocks>::Rank() == 0) {
    WriteMissing(args, n, 0);
  }
}

template <int kBlocks>
SIMT_DEVICE void SampleRow(const SampleLaunch& args, int n, SampleShared& shared,
                           uint32_t* adjusted) {
  const Slot slot = SlotOf(args, n);
  if (slot.listed != nullptr && args.penalty_reset[n] != 0) {
    if (Team<kBlocks>::Rank() == 0) ResetSlot(args, n, slot);
    Team<kBlocks>::Sync();
  }
  const Logits raw{.row = args.logits + n * args.logits_stride, .size = args.vocab};
  int32_t token = args.forced[n];
  const Logits drawn = token >= 0 ? raw : DrawnLogits(args, n, slot, adjusted);
  const Summaries summaries = LookAt<kBlocks>(drawn, shared.select.scratch);
  const bool sound = !summaries.raw.nan && IsFinite(summaries.raw.largest);
  if (!sound) {
    token = kNoToken;
  } else if (token < 0) {
    token = TokenOf<kBlocks>(args, n, drawn, summaries.drawn, shared);
  }
  if (args.num_logprobs[n] >= 0) {
    if (sound) {
      // The alternatives of a candidate row are those of what it draws from.
      const bool candidates = args.forced[n] == kCandidateRow;
      const Field listed = candidates ? Field{drawn, summaries.drawn.largest, {}}
                                      : Field{raw, summaries.raw.largest, {}};
      ReportLogprobs<kBlocks>(args, n, Field{raw, summaries.raw.largest, {}}, listed, token,
                              shared);
    } else if (Team<kBlocks>::Rank() == 0) {
      WriteChosen(args, n, -kInfinity, 0);
      WriteMissing(args, n, 0);
    }
  }
  // Each pass over the logits has ended in a barrier of the team: nobody reads the slot any more.
  if (Team<kBlocks>::Thread() != 0) return;
  args.token[n] = token;
  if (slot.listed != nullptr && token >= 0) CountToken(slot, token);
}

// kBlocks blocks per row; more than one are a cluster.
template <int kBlocks>
SIMT_KERNEL(kMaxThreads, 1)
SampleKernel(const SIMT_GRID_CONSTANT SampleLaunch args) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  constexpr bool kCompiled = true;
#else
  constexpr bool kCompiled = kBlocks == 1;
#endif
  if constexpr (kCompiled) {
    SampleShared& shared = simt::SharedMemory<SampleShared>();
    auto* adjusted = reinterpret_cast<uint32_t*>(&shared + 1);
    const int n = static_cast<int>(blockIdx.x) / kBlocks;
    simt::ptx::GridDependencyWait();
    if (args.forced[n] != kPaddedRow) {
      SampleRow<kBlocks>(args, n, shared, adjusted);
    } else if (Team<kBlocks>::Thread() == 0) {
      args.token[n] = kNoToken;
    }
    simt::ptx::GridDependencyLaunch();
  }
}

// Fewer threads finish a short row sooner; the results do not depend on it.
int ThreadsFor(int ids_per_block) {
  if (ids_per_block <= 1024) return simt::kWarpSize;
  return ids_per_block <= 8192 ? kMaxThreads / 4 : kMaxThreads;
}

}  // namespace

cudaError_t LaunchSample(cudaStream_t stream, const SampleLaunch& launch) {
  if (launch.rows == 0) return cudaSuccess;
  if (launch.vocab > kMaxSampledVocab) return cudaErrorInvalidValue;
  const int blocks = launch.clusters ? kSampleCluster : 1;
  const int threads = ThreadsFor(simt::CeilDiv(launch.vocab, blocks));
  const size_t adjusted = launch.adjustments > 0 ? SetWords(launch.vocab) * sizeof(uint32_t) : 0;
  const LaunchShape shape{.grid = dim3(launch.rows * blocks),
                          .block = dim3(threads),
                          .shared_bytes = sizeof(SampleShared) + adjusted,
                          .stream = stream,
                          .cluster = dim3(blocks),
                          .dependent = true};
  return launch.clusters ? SIMT_LAUNCH(shape, SampleKernel<kSampleCluster>, launch)
                         : SIMT_LAUNCH(shape, SampleKernel<1>, launch);
}

}  // namespace tessera::cuda
