// The places in a grammar that texts have reached, and which tokens may follow there.
//
// A place is a set of stacks: where each rule that was entered goes on, and how often a counted one
// has been repeated. Stacks and places are interned, steps between places are remembered, so that
// the grammar becomes a finite automaton as far as texts go; what is asked twice costs one look.
#ifndef TESSERA_ENGINE_GRAMMAR_MATCH_SPACE_H_
#define TESSERA_ENGINE_GRAMMAR_MATCH_SPACE_H_

#include <cstdint>
#include <memory>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/token_mask.h"
#include "engine/grammar/token_vocabulary.h"

namespace tessera::grammar {

using PlaceId = int32_t;
inline constexpr PlaceId kNowhere = -1;  // no text of the grammar begins like this

// What may be drawn at a place.
struct PlaceMask {
  std::shared_ptr<const TokenMask> tokens;  // never empty
  // How much further from the end, in symbols, a token of these may lead; at least 0.
  int64_t most_added = 0;
};

// Not thread-safe.
class MatchSpace {
 public:
  MatchSpace(std::shared_ptr<const Grammar> grammar,
             std::shared_ptr<const TokenVocabulary> vocabulary);

  // The place of the empty text, or of the empty answer behind a thought.
  PlaceId Start(bool after_thinking);
  PlaceId Step(PlaceId place, int32_t symbol);
  // A whole token: its bytes, or the terminal that it is.
  PlaceId StepToken(PlaceId place, int32_t token);

  bool accepting(PlaceId place) const { return places_[place].accepting; }
  // Nothing can follow.
  bool complete(PlaceId place) const { return accepting(place) && places_[place].stacks.empty(); }
  // Symbols of the shortest way to the end of the text.
  int64_t distance(PlaceId place) const { return places_[place].distance; }
  // One of these ways.
  std::vector<uint16_t> Witness(PlaceId place) const;
  // Tokens that surely suffice to get to the end.
  int64_t TokensToEnd(PlaceId place);

  // End tokens are allowed where the place is accepting.
  const PlaceMask& Mask(PlaceId place);
  // Only tokens from which the end can be reached with `left` - 1 more, and `also`, a token or -1.
  std::shared_ptr<const TokenMask> MaskWithin(PlaceId place, int64_t left, int32_t also);
  // The token of the first symbols of `way`.
  int32_t FirstToken(const std::vector<uint16_t>& way, int32_t* length) const;

  // A question was too expensive and the answer to it is worthless: the request has to end. Stays
  // so until it is cleared.
  bool overflowed() const { return overflowed_; }
  void ClearOverflow() { overflowed_ = false; }

  // Memory, roughly, without the grammar and the vocabulary.
  size_t bytes() const { return bytes_; }
  // The same place in this space.
  PlaceId Import(const MatchSpace& other, PlaceId place);

 private:
  static constexpr PlaceId kUnknown = -2;
  static constexpr int32_t kNoFrame = -1;

  // One stack: where its topmost rule goes on, and the stack below.
  struct Frame {
    StateId state = 0;
    uint32_t count = 0;  // of repetitions that are done or under way, at counted states
    int32_t below = kNoFrame;
    int32_t far = -1;  // the same with counts that are far from their bounds made equal
    int64_t distance = 0;
  };
  struct Place {
    std::vector<int32_t> stacks;  // frames at states with symbols, sorted
    bool accepting = false;
    PlaceId far = kUnknown;         // see Frame
    PlaceId plain_next = kUnknown;  // where every plain code point leads; kNowhere: not all to one
    int64_t distance = kEndless;
    int64_t tokens_to_end = -1;
    std::unique_ptr<PlaceMask> mask;
  };
  // A set of stacks under construction.
  struct Closure {
    std::vector<int32_t> stacks;
    bool accepting = false;
  };
  struct Move {
    enum class Kind : uint8_t { kEnter, kPlace, kReturn };
    Kind kind = Kind::kPlace;
    bool entering = false;  // kPlace: at the start of a rule
    int32_t id = 0;         // kEnter: rule; kPlace: state
    int32_t below = kNoFrame;
  };
  class PlainSteps;

  int32_t FrameOf(StateId state, uint32_t count, int32_t below);
  uint32_t FarCount(const Grammar::Rule& rule, uint32_t count) const;
  void Follow(const Move& move, Closure* out);
  void PlaceAt(const Move& move, Closure* out);
  void Enter(RuleId rule, int32_t below);
  void Return(int32_t below, Closure* out);
  void Close(Closure* out);
  PlaceId PlaceOf(Closure closure);
  PlaceId StepSlowly(PlaceId place, int32_t symbol);
  PlaceId Far(PlaceId place);
  PlaceId PlainNext(PlaceId place);
  int32_t PlainChain(PlaceId place, std::vector<PlaceId>* chain);
  template <typename Visit>
  void Walk(const TokenTrie& trie, PlaceId place, int32_t covered, const Visit& visit);
  template <typename Visit>
  void VisitTerminals(PlaceId place, const Visit& visit);
  void AddEnds(PlaceId place, std::vector<int32_t>* words) const;
  PlaceMask ComputeMask(PlaceId place);

  const std::shared_ptr<const Grammar> grammar_;
  const std::shared_ptr<const TokenVocabulary> vocabulary_;
  std::vector<Frame> frames_;
  absl::flat_hash_map<std::tuple<StateId, uint32_t, int32_t>, int32_t> frame_ids_;
  std::vector<Place> places_;
  absl::flat_hash_map<std::pair<std::vector<int32_t>, bool>, PlaceId> place_ids_;
  std::vector<PlaceId> steps_;  // [place, symbol class]
  std::vector<Move> moves_;     // of the closure under construction
  absl::flat_hash_set<std::pair<StateId, int32_t>> placed_;
  PlaceId starts_[2] = {kUnknown, kUnknown};
  std::unique_ptr<PlaceMask> worthless_;
  int64_t fuel_ = 0;
  bool overflowed_ = false;
  size_t bytes_ = 0;
};

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_MATCH_SPACE_H_
