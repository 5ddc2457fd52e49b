// Which tokens may follow at a place: walks of the automaton over the trie of all tokens.
#include <algorithm>
#include <utility>

#include "engine/grammar/match_space.h"
#include "kernels/core/bit_mask.h"

namespace tessera::grammar {
namespace {

// Moves of closures and long ways that one mask may cost: some milliseconds.
constexpr int64_t kMaskFuel = 400'000;

void AddAll(const std::vector<int32_t>& from, std::vector<int32_t>* to) {
  for (size_t i = 0; i < from.size(); ++i) (*to)[i] |= from[i];
}

}  // namespace

// Whether all plain code points lead to one place.
class MatchSpace::PlainSteps {
 public:
  PlainSteps(MatchSpace* space, PlaceId from) : space_(*space), from_(from) {}

  PlaceId Target() {
    bool same = Byte(from_, ' ', '!') && Byte(from_, '#', '[') && Byte(from_, ']', '~');
    same = same && Tail(Lead(0xC2, 0xDF), 1);
    same = same && Ends(Second(0xE0, 0xA0, 0xBF), 1) && Tail(Lead(0xE1, 0xEC), 2) &&
           Ends(Second(0xED, 0x80, 0x9F), 1) && Tail(Lead(0xEE, 0xEF), 2);
    same = same && Ends(Second(0xF0, 0x90, 0xBF), 2) && Tail(Lead(0xF1, 0xF3), 3) &&
           Ends(Second(0xF4, 0x80, 0x8F), 2);
    return same ? target_ : kNowhere;
  }

 private:
  // All of the bytes lead to target_.
  bool Byte(PlaceId place, int32_t first, int32_t last) {
    for (int32_t byte = first; byte <= last; ++byte) {
      const PlaceId next = space_.Step(place, byte);
      if (next == kNowhere || (target_ != kNowhere && next != target_)) return false;
      target_ = next;
    }
    return true;
  }
  void Collect(PlaceId place, int32_t first, int32_t last, std::vector<PlaceId>* out) {
    for (int32_t byte = first; byte <= last; ++byte) {
      const PlaceId next = space_.Step(place, byte);
      if (std::find(out->begin(), out->end(), next) == out->end()) out->push_back(next);
    }
  }
  std::vector<PlaceId> Lead(int32_t first, int32_t last) {
    std::vector<PlaceId> out;
    Collect(from_, first, last, &out);
    return out;
  }
  // The places behind a lead byte whose second byte is restricted.
  std::vector<PlaceId> Second(int32_t lead, int32_t first, int32_t last) {
    std::vector<PlaceId> out;
    const PlaceId place = space_.Step(from_, lead);
    if (place == kNowhere) return {kNowhere};
    Collect(place, first, last, &out);
    return out;
  }
  // `count` free continuation bytes from each of `places` lead to target_.
  bool Tail(std::vector<PlaceId> places, int32_t count) {
    for (; count > 0; --count) {
      std::vector<PlaceId> next;
      for (const PlaceId place : places) {
        if (place == kNowhere) return false;
        Collect(place, 0x80, 0xBF, &next);
      }
      places = std::move(next);
    }
    return std::all_of(places.begin(), places.end(),
                       [&](PlaceId place) { return place == target_; });
  }
  bool Ends(std::vector<PlaceId> places, int32_t count) { return Tail(std::move(places), count); }

  MatchSpace& space_;
  const PlaceId from_;
  PlaceId target_ = kNowhere;
};

PlaceId MatchSpace::PlainNext(PlaceId place) {
  if (places_[place].plain_next != kUnknown) return places_[place].plain_next;
  const PlaceId next = PlainSteps(this, place).Target();
  places_[place].plain_next = next;
  return next;
}

// How many plain code points, whatever they are, may follow; kMaxSlice: any number. `chain`: the
// places behind each.
int32_t MatchSpace::PlainChain(PlaceId place, std::vector<PlaceId>* chain) {
  for (int32_t n = 0; n + 1 < TokenVocabulary::kMaxSlice; ++n) {
    const PlaceId next = PlainNext(place);
    if (next == kNowhere) return n;
    chain->push_back(next);
    if (next == place) return TokenVocabulary::kMaxSlice;
    place = next;
  }
  return TokenVocabulary::kMaxSlice - 1;
}

// Calls `visit` with every token that may follow and the place behind it, but for tokens of up to
// `covered` code points.
template <typename Visit>
void MatchSpace::Walk(const TokenTrie& trie, PlaceId place, int32_t covered, const Visit& visit) {
  const std::vector<TokenTrie::Node>& nodes = trie.nodes();
  std::vector<PlaceId> path(vocabulary_->longest_token() + 1);
  path[0] = place;
  const auto size = static_cast<int32_t>(nodes.size());
  int32_t i = 0;
  while (i < size) {
    const TokenTrie::Node& node = nodes[i];
    if (node.max_code_points < covered) {
      i = node.end;
      continue;
    }
    const PlaceId next = Step(path[node.depth - 1], node.byte);
    if (next == kNowhere) {
      i = node.end;
      continue;
    }
    path[node.depth] = next;
    if (node.token >= 0) visit(node.token, next);
    ++i;
    if (overflowed_) return;
  }
}

template <typename Visit>
void MatchSpace::VisitTerminals(PlaceId place, const Visit& visit) {
  for (size_t i = 0; i < grammar_->terminals.size(); ++i) {
    const PlaceId next = Step(place, kByteSymbols + static_cast<int32_t>(i));
    if (next != kNowhere) visit(grammar_->terminals[i], next);
  }
}

void MatchSpace::AddEnds(PlaceId place, std::vector<int32_t>* words) const {
  if (!accepting(place)) return;
  for (const int32_t id : vocabulary_->end_token_ids()) {
    if (id >= 0 && id < vocabulary_->vocab_size()) AddToMask(words->data(), id);
  }
}

PlaceMask MatchSpace::ComputeMask(PlaceId place) {
  PlaceMask mask;
  std::vector<int32_t> words(MaskWords(vocabulary_->vocab_size()));
  const int64_t here = distance(place);
  const auto visit = [&](int32_t token, PlaceId next) {
    AddToMask(words.data(), token);
    mask.most_added = std::max(mask.most_added, distance(next) - here);
  };
  std::vector<PlaceId> chain;
  const int32_t covered = PlainChain(place, &chain);
  if (covered > 0) {
    AddAll(vocabulary_->slice_up_to(covered), &words);
    for (const PlaceId next : chain) {
      mask.most_added = std::max(mask.most_added, distance(next) - here);
    }
  }
  if (covered < TokenVocabulary::kMaxSlice) Walk(vocabulary_->plain(), place, covered + 1, visit);
  Walk(vocabulary_->other(), place, 0, visit);
  VisitTerminals(place, visit);
  AddEnds(place, &words);
  mask.tokens = std::make_shared<const TokenMask>(std::move(words));
  bytes_ += MaskWords(vocabulary_->vocab_size()) * sizeof(int32_t);
  return mask;
}

const PlaceMask& MatchSpace::Mask(PlaceId place) {
  fuel_ = kMaskFuel;
  const PlaceId far = Far(place);
  if (places_[far].mask != nullptr) return *places_[far].mask;
  auto mask = std::make_unique<PlaceMask>(ComputeMask(far));
  // A worthless answer is not remembered.
  std::unique_ptr<PlaceMask>& kept = overflowed_ ? worthless_ : places_[far].mask;
  kept = std::move(mask);
  return *kept;
}

std::shared_ptr<const TokenMask> MatchSpace::MaskWithin(PlaceId place, int64_t left, int32_t also) {
  fuel_ = kMaskFuel;
  std::vector<int32_t> words(MaskWords(vocabulary_->vocab_size()));
  const auto visit = [&](int32_t token, PlaceId next) {
    // The distance is an upper bound, too, and is known.
    if (distance(next) < left || TokensToEnd(next) < left) AddToMask(words.data(), token);
  };
  std::vector<PlaceId> chain;
  const int32_t length = PlainChain(place, &chain);
  const auto fits = [&](PlaceId next) { return distance(next) < left || TokensToEnd(next) < left; };
  int32_t covered = 0;
  if (length == TokenVocabulary::kMaxSlice) {
    const bool all = std::all_of(chain.begin(), chain.end(), fits);
    if (all) covered = length;
  } else {
    while (covered < length && fits(chain[covered])) ++covered;
  }
  if (covered > 0) AddAll(vocabulary_->slice_up_to(covered), &words);
  if (covered < TokenVocabulary::kMaxSlice) Walk(vocabulary_->plain(), place, covered + 1, visit);
  Walk(vocabulary_->other(), place, 0, visit);
  VisitTerminals(place, visit);
  AddEnds(place, &words);
  if (also >= 0) AddToMask(words.data(), also);
  return std::make_shared<const TokenMask>(std::move(words));
}

}  // namespace tessera::grammar
