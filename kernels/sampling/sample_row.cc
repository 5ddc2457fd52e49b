#include "kernels/sampling/sample_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/core/bit_mask.h"
#include "kernels/sampling/logit_row.h"
#include "kernels/sampling/nucleus.h"
#include "kernels/sampling/race.h"

namespace tessera {
namespace {

using sampling::Candidate;
using sampling::kBlock;
using sampling::LogitRow;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kGreedyBelow = 1e-5F;

// A row's part of the penalty table; null without a slot.
struct Slot {
  int32_t* listed = nullptr;  // bits
  int32_t* counts = nullptr;
};

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
  float* logits;  // [size]
  int64_t size;
  float temperature;
  int32_t top_k;
  double top_p;
  double min_p;
  int32_t num_logprobs;

  Slot slot() const {
    const int32_t index = args.penalty_slot.as<int32_t>()[n];
    if (index < 0) return {};
    return {.listed = args.penalty_listed.as<int32_t>() + index * args.penalty_listed.stride0(),
            .counts = args.penalty_counts.as<int32_t>() + index * args.penalty_counts.stride0()};
  }
  bool greedy() const { return temperature < kGreedyBelow; }
  // Null: every token is allowed.
  const int32_t* mask() const {
    const int32_t mask_row = args.mask_row.as<int32_t>()[n];
    if (mask_row < 0) return nullptr;
    return args.masks.as<int32_t>() + mask_row * args.masks.stride0();
  }
};

bool HasDistribution(const LogitRow& row) { return !row.has_nan() && std::isfinite(row.largest()); }

// Changes logits of a row. Takes the changes back when somebody looks at the logits later.
class Edits {
 public:
  Edits(float* logits, int64_t size, bool undoable)
      : logits_(logits), undoable_(undoable), changed_((size + kBlock - 1) / kBlock) {}

  bool empty() const { return empty_; }
  const std::vector<uint8_t>& changed_blocks() const { return changed_; }  // 1: holds an edit
  void Set(int32_t id, float logit) {
    if (undoable_) old_.emplace_back(id, logits_[id]);
    logits_[id] = logit;
    changed_[id / kBlock] = 1;
    empty_ = false;
  }
  void Undo() {
    for (auto edit = old_.rbegin(); edit != old_.rend(); ++edit)
      logits_[edit->first] = edit->second;
  }

 private:
  float* logits_;
  const bool undoable_;
  bool empty_ = true;
  std::vector<uint8_t> changed_;
  std::vector<std::pair<int32_t, float>> old_;
};

// The slot begins anew with the row's list.
void ResetSlot(const RowArgs& row, const Slot& slot) {
  const SampleArgs& args = row.args;
  std::fill_n(slot.listed, MaskWords(row.size), 0);
  const int32_t* begin_end = args.pen_offsets.as<int32_t>() + row.n;
  for (int32_t i = begin_end[0]; i < begin_end[1]; ++i) {
    const int32_t token = args.pen_tokens.as<int32_t>()[i];
    AddToMask(slot.listed, token);
    slot.counts[token] = args.pen_counts.as<int32_t>()[i];
  }
}

void CountToken(const Slot& slot, int32_t token) {
  slot.counts[token] = IsInMask(slot.listed, token) ? slot.counts[token] + 1 : 1;
  AddToMask(slot.listed, token);
}

// The tokens that a slot lists, ascending. Their counts are on the way into the cache.
std::vector<int32_t> ListedTokens(const Slot& slot, int64_t vocab) {
  const int64_t words = MaskWords(vocab);
  // Without branches: which words are empty cannot be predicted.
  std::vector<int32_t> used(words);
  int64_t num_used = 0;
  for (int64_t word = 0; word < words; ++word) {
    used[num_used] = static_cast<int32_t>(word);
    num_used += slot.listed[word] != 0 ? 1 : 0;
  }
  std::vector<int32_t> ids;
  ids.reserve(2 * num_used);
  for (int64_t i = 0; i < num_used; ++i) {
    for (auto bits = static_cast<uint32_t>(slot.listed[used[i]]); bits != 0; bits &= bits - 1) {
      ids.push_back(used[i] * 32 + std::countr_zero(bits));
      __builtin_prefetch(slot.counts + ids.back());
    }
  }
  return ids;
}

void Penalize(const RowArgs& row, const Slot& slot, Edits& edits) {
  const SampleArgs& args = row.args;
  const float repetition = args.repetition_penalty.as<float>()[row.n];
  const float presence = args.presence_penalty.as<float>()[row.n];
  const float frequency = args.frequency_penalty.as<float>()[row.n];
  for (const int32_t id : ListedTokens(slot, row.size)) {
    const int32_t count = slot.counts[id];
    float l = row.logits[id];
    l = l > 0 ? l / repetition : l * repetition;
    l -= frequency * static_cast<float>(count) + (count > 0 ? presence : 0.0F);
    edits.Set(id, l);
  }
}

void Adjust(const RowArgs& row, Edits& edits) {
  const SampleArgs& args = row.args;
  const int32_t* begin_end = args.adj_offsets.as<int32_t>() + row.n;
  for (int32_t i = begin_end[0]; i < begin_end[1]; ++i) {
    const int32_t id = args.adj_tokens.as<int32_t>()[i];
    edits.Set(id, row.logits[id] + args.adj_values.as<float>()[i]);
  }
}

// The token of a row that is divided by the temperature.
int32_t DrawScaled(const RowArgs& args, const LogitRow& row) {
  if (row.has_nan() || row.largest() == -kInfinity) return -1;
  if (args.greedy() || row.largest() == kInfinity) return row.ArgMax();
  const sampling::Field field{.last = sampling::LastKept(row, args.top_k, args.top_p),
                              .min_weight = args.min_p};
  const auto seed = static_cast<uint64_t>(args.args.seed.as<int64_t>()[args.n]);
  const auto position = static_cast<uint32_t>(args.args.position.as<int32_t>()[args.n]);
  return sampling::Race(row, field, {seed, position});
}

// The token of `row`: the raw logits after penalties and adjustments.
int32_t Draw(const RowArgs& args, const LogitRow& row) {
  if (args.greedy()) return DrawScaled(args, row);
  if (std::isfinite(args.temperature)) return DrawScaled(args, row.DividedBy(args.temperature));
  // Quotients may be NaN.
  std::vector<float> quotients(row.size());
  for (int64_t id = 0; id < row.size(); ++id) quotients[id] = row[id] / args.temperature;
  return DrawScaled(args, LogitRow(quotients.data(), row.size()));
}

// The token that `mask` leaves of the row.
int32_t DrawMasked(const RowArgs& args, const int32_t* mask) {
  if (args.num_logprobs < 0) {  // nobody looks at the logits any more
    return Draw(args, LogitRow::Masked(args.logits, mask, args.size, args.logits));
  }
  const auto masked = std::make_unique_for_overwrite<float[]>(args.size);
  return Draw(args, LogitRow::Masked(args.logits, mask, args.size, masked.get()));
}

int32_t DrawAfterEdits(const RowArgs& args, const Slot& slot, const LogitRow& raw) {
  Edits edits(args.logits, args.size, /*undoable=*/args.num_logprobs >= 0);
  if (slot.listed != nullptr) Penalize(args, slot, edits);
  Adjust(args, edits);
  const int32_t* mask = args.mask();
  if (edits.empty() && mask == nullptr) return Draw(args, raw);
  const int32_t token = mask != nullptr ? DrawMasked(args, mask)
                                        : Draw(args, raw.AfterChanges(edits.changed_blocks()));
  edits.Undo();
  return token;
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

// The largest of `listed`; `possible`: -inf is none.
void WriteAlternatives(const RowArgs& args, const LogitRow& listed, double log_total,
                       bool possible) {
  const std::vector<Candidate> top = listed.Largest(args.num_logprobs);
  for (int64_t j = 0; j < args.num_logprobs; ++j) {
    const bool there =
        j < static_cast<int64_t>(top.size()) && !(possible && top[j].logit == -kInfinity);
    WriteAlternative(args, j, there ? top[j].id : -1,
                     there ? top[j].logit - log_total : -kInfinity);
  }
}

// `raw` null: the row has no distribution. Alternatives of candidate rows are written elsewhere.
void ReportLogprobs(const RowArgs& args, const LogitRow* raw, int32_t token, bool candidates) {
  if (raw == nullptr) {
    for (int64_t j = 0; j < args.num_logprobs; ++j) WriteAlternative(args, j, -1, -kInfinity);
    WriteChosen(args, -kInfinity, 0);
    return;
  }
  const double log_total = raw->largest() + std::log(raw->SumWeights());
  if (!candidates) WriteAlternatives(args, *raw, log_total, /*possible=*/false);
  if (token < 0) {
    WriteChosen(args, -kInfinity, 0);
  } else {
    WriteChosen(args, (*raw)[token] - log_total, raw->RankOf(token));
  }
}

// The row less mask_penalty where the mask is 0; a view of `out`.
LogitRow Penalized(const RowArgs& args, const int32_t* mask, float* out) {
  const float penalty = args.args.mask_penalty.as<float>()[args.n];
  if (penalty == kInfinity) return LogitRow::Masked(args.logits, mask, args.size, out);
  for (int64_t id = 0; id < args.size; ++id) {
    out[id] = IsInMask(mask, id) ? args.logits[id] : args.logits[id] - penalty;
  }
  return {out, args.size};
}

// Lists the candidates of a row and returns the best.
int32_t ListCandidates(const RowArgs& args, const LogitRow& raw) {
  const double log_total = raw.largest() + std::log(raw.SumWeights());
  Edits edits(args.logits, args.size, /*undoable=*/true);
  Adjust(args, edits);
  std::unique_ptr<float[]> masked;
  const int32_t* mask = args.mask();
  if (mask != nullptr) masked = std::make_unique_for_overwrite<float[]>(args.size);
  const LogitRow listed = mask != nullptr ? Penalized(args, mask, masked.get())
                                          : raw.AfterChanges(edits.changed_blocks());
  const bool any = !listed.has_nan() && listed.largest() != -kInfinity;
  const int32_t token = any ? listed.ArgMax() : -1;
  if (any) {
    WriteAlternatives(args, listed, log_total, /*possible=*/true);
  } else {
    for (int64_t j = 0; j < args.num_logprobs; ++j) WriteAlternative(args, j, -1, -kInfinity);
  }
  edits.Undo();
  return token;
}

}  // namespace

void SampleRow(const SampleArgs& args, int64_t n) {
  int32_t& token = args.token.as<int32_t>()[n];
  if (args.forced.as<int32_t>()[n] == SampleArgs::kPaddedRow) {
    token = -1;
    return;
  }
  const RowArgs row(args, n);
  const Slot slot = row.slot();
  if (slot.listed != nullptr && args.penalty_reset.as<int32_t>()[n] != 0) ResetSlot(row, slot);
  const LogitRow raw(row.logits, row.size);
  const bool sound = HasDistribution(raw);
  token = sound ? args.forced.as<int32_t>()[n] : -1;
  const bool candidates = token == SampleArgs::kCandidateRow;
  if (candidates) {
    token = ListCandidates(row, raw);
  } else if (sound && token < 0) {
    token = DrawAfterEdits(row, slot, raw);
  }
  if (slot.listed != nullptr && token >= 0) CountToken(slot, token);
  if (row.num_logprobs >= 0) ReportLogprobs(row, sound ? &raw : nullptr, token, candidates);
}

}  // namespace tessera
