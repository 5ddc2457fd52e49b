#include "kernels/sampling/race.h"

#include <cmath>
#include <limits>

#include "kernels/core/philox.h"
#include "kernels/sampling/isa/isa.h"

namespace tessera::sampling {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Whether a candidate other than the first is in the field.
bool Contains(const LogitRow& row, const Field& field, const Candidate& candidate) {
  return !Before(field.last, candidate) && !(row.WeightOf(candidate.logit) < field.min_weight);
}

// Nothing below is in the field.
float LowestOf(const LogitRow& row, const Field& field) {
  if (!(field.min_weight > 0)) return field.last.logit;
  constexpr double kSlack = 1e-2;
  const double lowest = row.largest() + std::log(std::min(field.min_weight, 1.0)) - kSlack;
  return std::max(field.last.logit, std::nextafter(static_cast<float>(lowest), -kInfinity));
}

// The best score of those that ran.
class Best {
 public:
  void Enter(const Candidate& candidate, double u) {
    const double score = candidate.logit - std::log(-std::log(u));
    if (score < score_ || (score == score_ && candidate.id > id_)) return;
    score_ = score;
    id_ = candidate.id;
  }
  int32_t id() const { return id_; }
  double score() const { return score_; }

 private:
  int32_t id_ = -1;
  double score_ = -HUGE_VAL;
};

// -log(u) > 1 - u, so l + g can only win when 1 - u <= exp(l - best score). Returns the smallest
// random bits that fulfil this for logit l, or one less; more than 32 bits when none do.
int64_t LeastBits(float logit, double best_score) {
  constexpr double kSlack = 1.001;  // more than all rounding
  constexpr double kTwoTo32 = 0x1p32;
  const double reach = kSlack * std::exp(logit - best_score) * kTwoTo32;
  if (reach >= kTwoTo32) return 0;
  return static_cast<int64_t>(std::ceil(kTwoTo32 - 0.5 - reach));
}

}  // namespace

int32_t Race(const LogitRow& row, const Field& field, const RaceKey& key) {
  const Loops& loops = FastestLoops();
  const int32_t favourite = row.ArgMax();
  Best best;
  best.Enter({row[favourite], favourite},
             UniformFromSeed(key.seed, key.position, static_cast<uint32_t>(favourite)));
  const float lowest = LowestOf(row, field);
  uint32_t draws[kBlock];
  for (int64_t block = 0; block < row.blocks(); ++block) {
    const float largest = row.block_largest(block);
    if (largest < lowest) continue;
    const int64_t least = LeastBits(largest, best.score());
    if (least > std::numeric_limits<uint32_t>::max() ||
        !loops.draws_of_block(key.seed, key.position, static_cast<uint32_t>(block),
                              static_cast<uint32_t>(least), draws)) {
      continue;
    }
    row.ForBlock(block, [&](const Candidate& candidate) {
      const uint32_t bits = draws[candidate.id % kBlock];
      if (bits < least || !Contains(row, field, candidate)) return;
      best.Enter(candidate, UniformFromBits(bits));
    });
  }
  return best.id();
}

}  // namespace tessera::sampling
