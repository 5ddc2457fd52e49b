#include "kernels/sampling/sample_row.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/philox.h"
#include "kernels/sampling/logit_row.h"

namespace tessera {
namespace {

using sampling::Candidate;
using sampling::LogitRow;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5F;

// The arguments of row n.
struct RowArgs {
  RowArgs(const SampleArgs& all, int64_t row)
      : args(all),
        n(row),
        logits(all.logits.as<float>() + row * all.logits.stride0()),
        size(all.logits.dim(1)),
        temperature(all.temperature.as<float>()[row]),
        top_k(all.top_k.as<int32_t>()[row]),
        top_p(all.top_p.as<float>()[row]),
        min_p(all.min_p.as<float>()[row]),
        num_logprobs(all.num_logprobs.as<int32_t>()[row]) {}

  const SampleArgs& args;
  int64_t n;
  float* logits;  // [size], changed on the way to the token
  int64_t size;
  float temperature;
  int32_t top_k;
  double top_p;
  double min_p;
  int32_t num_logprobs;

  bool greedy() const { return temperature < kGreedyBelow; }
};

bool HasDistribution(const LogitRow& row) { return !row.has_nan() && std::isfinite(row.largest()); }

// Whether any logit was touched.
bool Penalize(const RowArgs& row) {
  const SampleArgs& args = row.args;
  const float repetition = args.repetition_penalty.as<float>()[row.n];
  const float presence = args.presence_penalty.as<float>()[row.n];
  const float frequency = args.frequency_penalty.as<float>()[row.n];
  const int32_t* begin_end = args.pen_offsets.as<int32_t>() + row.n;
  for (int32_t i = begin_end[0]; i < begin_end[1]; ++i) {
    float& l = row.logits[args.pen_tokens.as<int32_t>()[i]];
    const int32_t count = args.pen_counts.as<int32_t>()[i];
    l = l > 0 ? l / repetition : l * repetition;
    l -= frequency * static_cast<float>(count) + (count > 0 ? presence : 0.0F);
  }
  return begin_end[0] < begin_end[1];
}

bool Adjust(const RowArgs& row) {
  const SampleArgs& args = row.args;
  const int32_t* begin_end = args.adj_offsets.as<int32_t>() + row.n;
  for (int32_t i = begin_end[0]; i < begin_end[1]; ++i) {
    row.logits[args.adj_tokens.as<int32_t>()[i]] += args.adj_values.as<float>()[i];
  }
  return begin_end[0] < begin_end[1];
}

double Weight(const LogitRow& row, const Candidate& candidate) {
  return std::exp(static_cast<double>(candidate.logit) - row.largest());
}

// The smallest prefix of `candidates` that reaches `mass`; 0 when all of them do not.
size_t PrefixReaching(const LogitRow& row, const std::vector<Candidate>& candidates, double mass) {
  double prefix = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    prefix += Weight(row, candidates[i]);
    if (prefix >= mass) return i + 1;
  }
  return 0;
}

// The tokens that top-p leaves of the whole vocabulary. Their number is unknown, so try few first.
std::vector<Candidate> Nucleus(const LogitRow& row, double top_p) {
  constexpr int64_t kFirstTry = 128;
  const double mass = top_p * row.SumExp();
  for (int64_t count = kFirstTry;; count *= 8) {
    std::vector<Candidate> candidates = row.Largest(count);
    const size_t prefix = PrefixReaching(row, candidates, mass);
    if (prefix > 0) candidates.resize(prefix);
    if (prefix > 0 || count >= row.size()) return candidates;
  }
}

// Tokens left by top-k, top-p and min-p, at least one of these being active.
std::vector<Candidate> Kept(const RowArgs& args, const LogitRow& row) {
  std::vector<Candidate> kept;
  if (args.top_k > 0) {
    kept = row.Largest(args.top_k);
    if (args.top_p < 1.0) {
      double total = 0;
      for (const Candidate& candidate : kept) total += Weight(row, candidate);
      const size_t prefix = PrefixReaching(row, kept, args.top_p * total);
      if (prefix > 0) kept.resize(prefix);
    }
  } else if (args.top_p < 1.0) {
    kept = Nucleus(row, args.top_p);
  } else {
    // A little more than needed: the exact test follows.
    kept = row.AtLeast(row.largest() + static_cast<float>(std::log(args.min_p)) - 1e-2F);
  }
  const auto too_small = [&](const Candidate& candidate) {
    return candidate.logit < row.largest() && Weight(row, candidate) < args.min_p;
  };
  kept.erase(std::remove_if(kept.begin(), kept.end(), too_small), kept.end());
  return kept;
}

// Keeps the best of the scores l + g.
class Race {
 public:
  Race(uint64_t seed, uint32_t position) : seed_(seed), position_(position) {}

  void Enter(const Candidate& candidate) {
    Enter(candidate, UniformFromSeed(seed_, position_, static_cast<uint32_t>(candidate.id)));
  }
  void Enter(const Candidate& candidate, double u) {
    const double score = candidate.logit - std::log(-std::log(u));
    if (score < score_ || (score == score_ && candidate.id > winner_)) return;
    score_ = score;
    winner_ = candidate.id;
  }
  // Enters all ids. -log(u) > 1 - u, so l + g can only win when 1 - u <= exp(l - best score): one
  // multiplication and comparison rules out nearly every token.
  void EnterAll(const LogitRow& row);

  int32_t winner() const { return winner_; }

 private:
  uint64_t seed_;
  uint32_t position_;
  int32_t winner_ = -1;
  double score_ = -HUGE_VAL;
};

void Race::EnterAll(const LogitRow& row) {
  constexpr int64_t kChunk = 1024;
  constexpr double kSlack = 1.001;  // more than the error of the fast exp
  const int32_t favourite = row.ArgMax();
  Enter({row[favourite], favourite});
  double reach = kSlack * std::exp(row.largest() - score_);
  float weights[kChunk];
  for (int64_t begin = 0; begin < row.size(); begin += kChunk) {
    const int64_t end = std::min(row.size(), begin + kChunk);
    sampling::ExpNonPositive(&row[begin], row.largest(), end - begin, weights);
    for (int64_t group = begin; group < end; group += 4) {
      const std::array<uint32_t, 4> bits =
          DrawsOfGroup(seed_, position_, static_cast<uint32_t>(group / 4));
      for (int64_t id = group; id < std::min(group + 4, end); ++id) {
        const double u = UniformFromBits(bits[id - group]);
        if (1.0 - u > weights[id - begin] * reach) continue;
        Enter({row[id], static_cast<int32_t>(id)}, u);
        reach = kSlack * std::exp(row.largest() - score_);
      }
    }
  }
}

int32_t Draw(const RowArgs& args) {
  if (!args.greedy()) {
    for (int64_t i = 0; i < args.size; ++i) args.logits[i] /= args.temperature;
  }
  const LogitRow row(args.logits, args.size);
  if (row.has_nan() || row.largest() == -kInfinity) return -1;
  if (args.greedy() || row.largest() == kInfinity) return row.ArgMax();
  Race race(static_cast<uint64_t>(args.args.seed.as<int64_t>()[args.n]),
            static_cast<uint32_t>(args.args.position.as<int32_t>()[args.n]));
  if (args.top_k <= 0 && args.top_p >= 1.0 && args.min_p <= 0.0) {
    race.EnterAll(row);
  } else {
    for (const Candidate& candidate : Kept(args, row)) race.Enter(candidate);
  }
  return race.winner();
}

void WriteAlternative(const RowArgs& args, int64_t j, int32_t id, double logprob) {
  const SampleArgs& all = args.args;
  all.top_tokens.as<int32_t>()[args.n * all.top_tokens.stride0() + j] = id;
  all.top_logprobs.as<float>()[args.n * all.top_logprobs.stride0() + j] =
      static_cast<float>(logprob);
}

void WriteChosen(const RowArgs& args, double logprob, int32_t rank) {
  args.args.logprob.as<float>()[args.n] = static_cast<float>(logprob);
  args.args.rank.as<int32_t>()[args.n] = rank;
}

// `raw` null: the row has no distribution.
void ReportLogprobs(const RowArgs& args, const LogitRow* raw, int32_t token) {
  const double log_total = raw == nullptr ? 0.0 : raw->largest() + std::log(raw->SumExp());
  std::vector<Candidate> top;
  if (raw != nullptr) top = raw->Largest(args.num_logprobs);
  for (int64_t j = 0; j < args.num_logprobs; ++j) {
    const bool there = j < static_cast<int64_t>(top.size());
    WriteAlternative(args, j, there ? top[j].id : -1,
                     there ? top[j].logit - log_total : -kInfinity);
  }
  if (token < 0) {
    WriteChosen(args, -kInfinity, 0);
  } else {
    WriteChosen(args, (*raw)[token] - log_total, raw->RankOf(token));
  }
}

}  // namespace

void SampleRow(const SampleArgs& args, int64_t n) {
  const RowArgs row(args, n);
  int32_t& token = args.token.as<int32_t>()[n];
  const bool wants_logprobs = row.num_logprobs >= 0;
  std::vector<float> copy;
  if (wants_logprobs) copy.assign(row.logits, row.logits + row.size);
  const LogitRow raw(wants_logprobs ? copy.data() : row.logits, row.size);
  if (!HasDistribution(raw)) {
    token = -1;
    if (wants_logprobs) ReportLogprobs(row, nullptr, token);
    return;
  }
  token = args.forced.as<int32_t>()[n];
  if (token < 0) {
    const bool penalized = Penalize(row);
    const bool adjusted = Adjust(row);
    token = row.greedy() && !penalized && !adjusted ? raw.ArgMax() : Draw(row);
  }
  if (wants_logprobs) ReportLogprobs(row, &raw, token);
}

}  // namespace tessera
