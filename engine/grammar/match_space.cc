#include "engine/grammar/match_space.h"

#include <algorithm>
#include <utility>

namespace tessera::grammar {
namespace {

constexpr size_t kMaxStacks = 2000;  // of one place
constexpr size_t kMaxDepth = 4096;   // moves that wait in one closure

int64_t Sum(int64_t a, int64_t b) { return std::min(a + b, kEndless); }

}  // namespace

MatchSpace::MatchSpace(std::shared_ptr<const Grammar> grammar,
                       std::shared_ptr<const TokenVocabulary> vocabulary)
    : grammar_(std::move(grammar)), vocabulary_(std::move(vocabulary)) {}

// Counts further from both bounds than a token is long make no difference to what may follow.
uint32_t MatchSpace::FarCount(const Grammar::Rule& rule, uint32_t count) const {
  const auto reach = static_cast<int64_t>(vocabulary_->longest_token()) + 1;
  const int64_t to_min = static_cast<int64_t>(rule.min) - count;
  if (to_min > reach) return static_cast<uint32_t>(rule.min - reach);
  if (to_min > 0 || rule.max == kUnbounded) return count;
  const int64_t to_max = static_cast<int64_t>(rule.max) - count;
  if (to_max <= reach) return count;
  return static_cast<uint32_t>(std::max<int64_t>(rule.min, rule.max - reach));
}

int32_t MatchSpace::FrameOf(StateId state, uint32_t count, int32_t below) {
  const auto key = std::make_tuple(state, count, below);
  if (const auto known = frame_ids_.find(key); known != frame_ids_.end()) return known->second;
  const Grammar::State& at = grammar_->states[state];
  const int64_t rest = below == kNoFrame ? 0 : frames_[below].distance;
  Frame frame{.state = state, .count = count, .below = below, .distance = Sum(at.cost, rest)};
  uint32_t far_count = count;
  if (at.counted >= 0) {
    const Grammar::Rule& rule = grammar_->rules[at.counted];
    const int64_t owed = rule.min > count ? rule.min - count : 0;
    frame.distance = Sum(owed * grammar_->rules[rule.body].cost, rest);
    far_count = FarCount(rule, count);
  }
  const auto id = static_cast<int32_t>(frames_.size());
  frames_.push_back(frame);
  frame_ids_.emplace(key, id);
  bytes_ += 2 * sizeof(Frame) + sizeof(key);
  const int32_t far_below = below == kNoFrame ? kNoFrame : frames_[below].far;
  const bool is_far = far_count == count && far_below == below;
  frames_[id].far = is_far ? id : -1;
  if (!is_far) {
    const int32_t far = FrameOf(state, far_count, far_below);
    frames_[id].far = far;
  }
  return id;
}

void MatchSpace::Enter(RuleId id, int32_t below) {
  const Grammar::Rule& rule = grammar_->rules[id];
  if (rule.body < 0) {
    moves_.push_back({Move::Kind::kPlace, true, rule.start, below});
    return;
  }
  const int32_t inside = rule.max == 1 ? below : FrameOf(rule.start, 1, below);
  moves_.push_back({Move::Kind::kEnter, false, rule.body, inside});
}

void MatchSpace::PlaceAt(const Move& move, Closure* out) {
  if (!placed_.emplace(move.id, move.below).second) return;
  const Grammar::State& state = grammar_->states[move.id];
  if (!state.symbols.empty()) out->stacks.push_back(FrameOf(move.id, 0, move.below));
  for (const Dfa::CallEdge& call : state.calls) {
    const bool comes_back = !grammar_->states[call.target].only_ends();
    const int32_t below = comes_back ? FrameOf(call.target, 0, move.below) : move.below;
    moves_.push_back({Move::Kind::kEnter, false, call.rule, below});
  }
  if (state.accepting && !move.entering) {
    moves_.push_back({Move::Kind::kReturn, false, 0, move.below});
  }
}

void MatchSpace::Return(int32_t below, Closure* out) {
  if (below == kNoFrame) {
    out->accepting = true;
    return;
  }
  const Frame frame = frames_[below];
  const RuleId counted = grammar_->states[frame.state].counted;
  if (counted < 0) {
    moves_.push_back({Move::Kind::kPlace, false, frame.state, frame.below});
    return;
  }
  // A repetition may be the last one, or another one follows.
  if (!placed_.emplace(frame.state, below).second) return;
  const Grammar::Rule& rule = grammar_->rules[counted];
  if (frame.count >= rule.min) moves_.push_back({Move::Kind::kReturn, false, 0, frame.below});
  if (frame.count >= rule.max) return;
  uint32_t next = frame.count + 1;
  if (rule.max == kUnbounded) next = std::min(next, std::max(rule.min, 1U));
  const int32_t inside = next == rule.max ? frame.below : FrameOf(frame.state, next, frame.below);
  moves_.push_back({Move::Kind::kEnter, false, rule.body, inside});
}

void MatchSpace::Follow(const Move& move, Closure* out) {
  switch (move.kind) {
    case Move::Kind::kEnter:
      return Enter(move.id, move.below);
    case Move::Kind::kPlace:
      return PlaceAt(move, out);
    case Move::Kind::kReturn:
      return Return(move.below, out);
  }
}

void MatchSpace::Close(Closure* out) {
  placed_.clear();
  while (!moves_.empty()) {
    --fuel_;
    if (out->stacks.size() > kMaxStacks || moves_.size() > kMaxDepth || fuel_ < 0) {
      overflowed_ = true;
      moves_.clear();
      out->stacks.clear();
      out->accepting = false;
      return;
    }
    const Move move = moves_.back();
    moves_.pop_back();
    Follow(move, out);
  }
}

PlaceId MatchSpace::PlaceOf(Closure closure) {
  if (closure.stacks.empty() && !closure.accepting) return kNowhere;
  std::sort(closure.stacks.begin(), closure.stacks.end());
  closure.stacks.erase(std::unique(closure.stacks.begin(), closure.stacks.end()),
                       closure.stacks.end());
  const auto [entry, is_new] = place_ids_.try_emplace({closure.stacks, closure.accepting},
                                                      static_cast<PlaceId>(places_.size()));
  if (!is_new) return entry->second;
  Place place{.accepting = closure.accepting};
  place.distance = closure.accepting ? 0 : kEndless;
  for (const int32_t frame : closure.stacks) {
    place.distance = std::min(place.distance, frames_[frame].distance);
  }
  place.stacks = std::move(closure.stacks);
  bytes_ += sizeof(Place) + 2 * place.stacks.size() * sizeof(int32_t) +
            grammar_->num_classes * sizeof(PlaceId) + sizeof(*entry);
  places_.push_back(std::move(place));
  steps_.resize(steps_.size() + grammar_->num_classes, kUnknown);
  return entry->second;
}

PlaceId MatchSpace::Start(bool after_thinking) {
  PlaceId& start = starts_[after_thinking ? 1 : 0];
  if (start != kUnknown) return start;
  fuel_ = kMaxDepth;
  Closure closure;
  moves_.push_back({Move::Kind::kEnter, false,
                    after_thinking ? grammar_->after_thinking : grammar_->root, kNoFrame});
  Close(&closure);
  closure.accepting = closure.accepting || grammar_->root_is_nullable;
  start = PlaceOf(std::move(closure));
  return start;
}

PlaceId MatchSpace::Step(PlaceId place, int32_t symbol) {
  const size_t index =
      static_cast<size_t>(place) * grammar_->num_classes + grammar_->symbol_class[symbol];
  if (steps_[index] != kUnknown) return steps_[index];
  const PlaceId next = StepSlowly(place, symbol);
  if (!overflowed_) steps_[index] = next;
  return next;
}

PlaceId MatchSpace::StepSlowly(PlaceId place, int32_t symbol) {
  Closure closure;
  for (size_t i = 0; i < places_[place].stacks.size(); ++i) {
    const Frame frame = frames_[places_[place].stacks[i]];
    for (const Dfa::SymbolEdge& edge : grammar_->states[frame.state].symbols) {
      if (symbol > edge.last) continue;
      if (symbol >= edge.first) {
        moves_.push_back({Move::Kind::kPlace, false, edge.target, frame.below});
      }
      break;
    }
  }
  Close(&closure);
  return PlaceOf(std::move(closure));
}

PlaceId MatchSpace::StepToken(PlaceId place, int32_t token) {
  fuel_ = kMaxStacks * kMaxDepth;
  const auto& terminals = grammar_->terminals;
  const auto terminal = std::find(terminals.begin(), terminals.end(), token);
  if (terminal != terminals.end()) {
    return Step(place, kByteSymbols + static_cast<int32_t>(terminal - terminals.begin()));
  }
  const std::string_view bytes = vocabulary_->bytes(token);
  if (bytes.empty()) return kNowhere;
  for (const char c : bytes) {
    place = Step(place, static_cast<uint8_t>(c));
    if (place == kNowhere) break;
  }
  return place;
}

PlaceId MatchSpace::Far(PlaceId place) {
  if (places_[place].far != kUnknown) return places_[place].far;
  Closure closure{.accepting = places_[place].accepting};
  for (const int32_t frame : places_[place].stacks) closure.stacks.push_back(frames_[frame].far);
  const PlaceId far = PlaceOf(std::move(closure));
  places_[place].far = far;
  return far;
}

std::vector<uint16_t> MatchSpace::Witness(PlaceId id) const {
  std::vector<uint16_t> way;
  const Place& place = places_[id];
  if (place.accepting) return way;
  struct Item {
    StateId state = -1;
    RuleId rule = -1;
    uint32_t times = 1;
  };
  // The shortest stack, topmost frame last.
  int32_t frame = *std::min_element(
      place.stacks.begin(), place.stacks.end(),
      [&](int32_t a, int32_t b) { return frames_[a].distance < frames_[b].distance; });
  std::vector<Item> todo;
  for (; frame != kNoFrame; frame = frames_[frame].below) {
    const RuleId counted = grammar_->states[frames_[frame].state].counted;
    if (counted < 0) {
      todo.push_back({.state = frames_[frame].state});
    } else {
      const Grammar::Rule& rule = grammar_->rules[counted];
      const uint32_t owed = rule.min > frames_[frame].count ? rule.min - frames_[frame].count : 0;
      todo.push_back({.rule = rule.body, .times = owed});
    }
  }
  std::reverse(todo.begin(), todo.end());
  while (!todo.empty()) {
    Item item = todo.back();
    todo.pop_back();
    if (item.rule >= 0) {
      if (item.times == 0) continue;
      if (--item.times > 0) todo.push_back(item);
      const Grammar::Rule& rule = grammar_->rules[item.rule];
      if (rule.body < 0) {
        todo.push_back({.state = rule.start});
      } else {
        todo.push_back({.rule = rule.body, .times = std::max(rule.min, 1U)});
      }
      continue;
    }
    const Grammar::State& state = grammar_->states[item.state];
    if (state.cost == 0) continue;
    bool found = false;
    for (const Dfa::SymbolEdge& edge : state.symbols) {
      if (grammar_->states[edge.target].cost + 1 != state.cost) continue;
      way.push_back(edge.first);
      todo.push_back({.state = edge.target});
      found = true;
      break;
    }
    for (size_t i = 0; i < state.calls.size() && !found; ++i) {
      const Dfa::CallEdge& call = state.calls[i];
      const int64_t cost = grammar_->rules[call.rule].cost + grammar_->states[call.target].cost;
      if (cost != state.cost) continue;
      todo.push_back({.state = call.target});
      todo.push_back({.rule = call.rule});
      found = true;
    }
  }
  return way;
}

int32_t MatchSpace::FirstToken(const std::vector<uint16_t>& way, int32_t* length) const {
  const int32_t token = vocabulary_->FirstToken(way, length);
  return way[0] >= kByteSymbols ? grammar_->terminals[way[0] - kByteSymbols] : token;
}

// Counting tokens of long ways is not worth its time: their length is a bound, too.
int64_t MatchSpace::TokensToEnd(PlaceId place) {
  constexpr int64_t kLongWay = 4096;
  Place& at = places_[place];
  if (at.tokens_to_end >= 0) return at.tokens_to_end;
  at.tokens_to_end = at.distance;
  if (at.distance > 0 && at.distance <= kLongWay) {
    const int64_t count = vocabulary_->CountTokens(Witness(place));
    if (count >= 0) at.tokens_to_end = count;
    fuel_ -= at.distance;
  }
  return at.tokens_to_end;
}

PlaceId MatchSpace::Import(const MatchSpace& other, PlaceId place) {
  Closure closure{.accepting = other.places_[place].accepting};
  absl::flat_hash_map<int32_t, int32_t> known;
  for (const int32_t stack : other.places_[place].stacks) {
    std::vector<int32_t> path;
    int32_t below = kNoFrame;
    for (int32_t frame = stack; frame != kNoFrame; frame = other.frames_[frame].below) {
      if (const auto found = known.find(frame); found != known.end()) {
        below = found->second;
        break;
      }
      path.push_back(frame);
    }
    for (size_t i = path.size(); i-- > 0;) {
      const Frame& frame = other.frames_[path[i]];
      below = FrameOf(frame.state, frame.count, below);
      known.emplace(path[i], below);
    }
    closure.stacks.push_back(below);
  }
  return PlaceOf(std::move(closure));
}

}  // namespace tessera::grammar
