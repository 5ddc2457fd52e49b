#include "tests/engine/naive_beams.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>
#include <tuple>

namespace tessera {
namespace {

struct Beam {
  std::vector<int32_t> tokens;
  double sum = 0;
};

struct Candidate {
  size_t beam;
  int32_t token;
  double sum;
  auto order() const { return std::tuple(-sum, beam, token); }
};

std::vector<Candidate> BestCandidates(const NaiveSearch& search, const std::vector<Beam>& beams) {
  const std::set<int32_t> eos(search.eos.begin(), search.eos.end());
  std::vector<Candidate> all;
  for (size_t b = 0; b < beams.size(); ++b) {
    const bool too_early = static_cast<int32_t>(beams[b].tokens.size()) < search.min_tokens;
    for (const TokenAlternative& next : search.next(beams[b].tokens)) {
      if (too_early && eos.contains(next.token)) continue;
      all.push_back({b, next.token, beams[b].sum + static_cast<double>(next.logprob)});
    }
  }
  std::sort(all.begin(), all.end(),
            [](const Candidate& a, const Candidate& b) { return a.order() < b.order(); });
  const size_t most = std::max<size_t>(2, 1 + eos.size()) * search.beams.width;
  if (all.size() > most) all.resize(most);
  return all;
}

// What the definition calls B, L and so on.
struct State {
  const NaiveSearch& search;
  std::vector<Beam> beams{Beam{}};
  std::vector<NaiveText> finished;
  int32_t length = 0;

  size_t width() const { return static_cast<size_t>(search.beams.width); }
  double Penalised(double sum, int32_t tokens) const {
    return sum / std::pow(static_cast<double>(tokens), search.beams.length_penalty);
  }
  bool stops_early() const { return search.beams.early_stopping == BeamEarlyStopping::kYes; }
  bool CanImprove() const {
    if (finished.size() < width()) return true;
    const bool never = search.beams.early_stopping == BeamEarlyStopping::kNever;
    const int32_t tokens = never && search.beams.length_penalty > 0 ? search.max_tokens : length;
    return Penalised(beams[0].sum, tokens) > finished.back().score;
  }
};

// False when the search is over.
bool Step(State* state) {
  const NaiveSearch& search = state->search;
  const bool closed = state->stops_early() && state->finished.size() == state->width();
  const std::vector<Candidate> candidates = BestCandidates(search, state->beams);
  std::vector<Beam> next;
  ++state->length;
  for (size_t rank = 0; rank < candidates.size(); ++rank) {
    const Candidate& candidate = candidates[rank];
    Beam beam = state->beams[candidate.beam];
    beam.tokens.push_back(candidate.token);
    beam.sum = candidate.sum;
    const bool is_eos =
        std::find(search.eos.begin(), search.eos.end(), candidate.token) != search.eos.end();
    if (!is_eos && state->length < search.max_tokens) {
      if (next.size() < state->width()) next.push_back(beam);
    } else if (rank < state->width() && !closed) {
      state->finished.push_back({beam.tokens, state->Penalised(beam.sum, state->length), !is_eos});
    }
  }
  std::stable_sort(state->finished.begin(), state->finished.end(),
                   [](const NaiveText& a, const NaiveText& b) { return a.score > b.score; });
  if (state->finished.size() > state->width()) state->finished.resize(state->width());
  state->beams = next;
  const bool enough = state->stops_early() && state->finished.size() == state->width();
  return !next.empty() && !enough && state->CanImprove();
}

}  // namespace

std::vector<NaiveText> SearchNaively(const NaiveSearch& search) {
  State state{.search = search};
  while (Step(&state)) {
  }
  if (state.finished.size() > static_cast<size_t>(search.num_texts)) {
    state.finished.resize(search.num_texts);
  }
  return state.finished;
}

}  // namespace tessera
