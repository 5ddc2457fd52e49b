#include "engine/grammar/automaton.h"

#include <algorithm>
#include <array>
#include <map>

#include "absl/container/flat_hash_map.h"

namespace tessera::grammar {
namespace {

constexpr StateId kNone = -1;

// The last code point of `length` UTF-8 bytes.
constexpr std::array<uint32_t, 5> kLastOfLength = {0, 0x7F, 0x7FF, 0xFFFF, kMaxCodePoint};

int32_t Utf8Length(uint32_t code_point) {
  int32_t length = 1;
  while (code_point > kLastOfLength[length]) ++length;
  return length;
}

std::array<uint8_t, 4> Utf8Bytes(uint32_t code_point, int32_t length) {
  constexpr std::array<uint8_t, 5> kLead = {0, 0, 0xC0, 0xE0, 0xF0};
  std::array<uint8_t, 4> bytes{};
  for (int32_t i = length - 1; i > 0; --i) {
    bytes[i] = static_cast<uint8_t>(0x80 | (code_point & 0x3F));
    code_point >>= 6;
  }
  bytes[0] = static_cast<uint8_t>(kLead[length] | code_point);
  return bytes;
}

}  // namespace

StateId Dfa::Next(StateId state, int32_t symbol) const {
  for (const SymbolEdge& edge : states[state].symbols) {
    if (symbol <= edge.last) return symbol >= edge.first ? edge.target : kNone;
  }
  return kNone;
}

bool Dfa::Accepts(std::string_view text) const {
  StateId state = 0;
  for (const char c : text) {
    state = Next(state, static_cast<uint8_t>(c));
    if (state == kNone) return false;
  }
  return states[state].accepting;
}

StateId Nfa::AddState() {
  if (!budget_.Take() && !states_.empty()) return 0;
  states_.emplace_back();
  return static_cast<StateId>(states_.size()) - 1;
}

void Nfa::AddEmpty(StateId from, StateId to) {
  if (budget_.Take()) states_[from].empty.push_back(to);
}

void Nfa::AddSymbols(StateId from, int32_t first, int32_t last, StateId to) {
  if (!budget_.Take()) return;
  states_[from].symbols.push_back({static_cast<uint16_t>(first), static_cast<uint16_t>(last), to});
}

void Nfa::AddCall(StateId from, RuleId rule, StateId to) {
  if (budget_.Take()) states_[from].calls.push_back({rule, to});
}

Fragment Nfa::Empty() {
  const StateId state = AddState();
  return {state, state};
}

Fragment Nfa::Nothing() {
  const StateId begin = AddState();
  return {begin, AddState()};
}

Fragment Nfa::Symbols(int32_t first, int32_t last) {
  const Fragment out = Nothing();
  AddSymbols(out.begin, first, last, out.end);
  return out;
}

Fragment Nfa::Literal(std::string_view bytes) {
  Fragment out = Empty();
  for (const char c : bytes) {
    const StateId next = AddState();
    AddSymbols(out.end, static_cast<uint8_t>(c), static_cast<uint8_t>(c), next);
    out.end = next;
  }
  return out;
}

Fragment Nfa::Call(RuleId rule) {
  const Fragment out = Nothing();
  AddCall(out.begin, rule, out.end);
  return out;
}

// Ranges are cut where the length of the encoding or the leading bytes change, until all that is
// left of the code points varies freely behind a common beginning.
void Nfa::AddCodePoints(uint32_t first, uint32_t last, StateId from, StateId to) {
  while (first <= last) {
    const int32_t length = Utf8Length(first);
    uint32_t end = std::min(last, kLastOfLength[length]);
    for (int32_t free = length - 1; free > 0; --free) {
      const uint32_t low_bits = (1U << (6 * free)) - 1;
      if ((first | low_bits) == (end | low_bits)) continue;  // the same byte in front
      if ((first & low_bits) != 0) {
        end = std::min(end, first | low_bits);
      } else if ((end & low_bits) != low_bits) {
        end = (end & ~low_bits) - 1;
      }
    }
    const auto low = Utf8Bytes(first, length);
    const auto high = Utf8Bytes(end, length);
    StateId state = from;
    for (int32_t i = 0; i < length; ++i) {
      const StateId next = i + 1 == length ? to : AddState();
      AddSymbols(state, low[i], high[i], next);
      state = next;
    }
    if (budget_.spent() || end >= last) return;
    first = end + 1;
  }
}

Fragment Nfa::CodePoints(absl::Span<const CodePointRange> ranges) {
  constexpr uint32_t kFirstSurrogate = 0xD800;
  constexpr uint32_t kLastSurrogate = 0xDFFF;
  const Fragment out = Nothing();
  for (const CodePointRange& range : ranges) {
    if (range.first < kFirstSurrogate) {
      AddCodePoints(range.first, std::min(range.last, kFirstSurrogate - 1), out.begin, out.end);
    }
    if (range.last > kLastSurrogate) {
      AddCodePoints(std::max(range.first, kLastSurrogate + 1), range.last, out.begin, out.end);
    }
  }
  return out;
}

Fragment Nfa::Concat(Fragment a, Fragment b) {
  AddEmpty(a.end, b.begin);
  return {a.begin, b.end};
}

Fragment Nfa::Concat(absl::Span<const Fragment> parts) {
  if (parts.empty()) return Empty();
  Fragment out = parts[0];
  for (const Fragment& part : parts.subspan(1)) out = Concat(out, part);
  return out;
}

Fragment Nfa::Alternate(absl::Span<const Fragment> parts) {
  const Fragment out = Nothing();
  for (const Fragment& part : parts) {
    AddEmpty(out.begin, part.begin);
    AddEmpty(part.end, out.end);
  }
  return out;
}

Fragment Nfa::Optional(Fragment a) {
  const Fragment skip = Empty();
  return Alternate({a, skip});
}

Fragment Nfa::Star(Fragment a) {
  const StateId loop = AddState();
  AddEmpty(loop, a.begin);
  AddEmpty(a.end, loop);
  const StateId begin = AddState();
  const StateId end = AddState();
  AddEmpty(begin, loop);
  AddEmpty(loop, end);
  return {begin, end};
}

Fragment Nfa::Plus(Fragment a) {
  AddEmpty(a.end, a.begin);
  const StateId begin = AddState();
  const StateId end = AddState();
  AddEmpty(begin, a.begin);
  AddEmpty(a.end, end);
  return {begin, end};
}

Fragment Nfa::Repeat(const std::function<Fragment()>& make, int64_t min, int64_t max) {
  Fragment out = Empty();
  for (int64_t i = 0; i < min && !budget_.spent(); ++i) out = Concat(out, make());
  if (max < 0) return Concat(out, Star(make()));
  const StateId end = AddState();
  AddEmpty(out.end, end);
  for (int64_t i = min; i < max && !budget_.spent(); ++i) {
    out = Concat(out, make());
    AddEmpty(out.end, end);
  }
  return {out.begin, end};
}

Fragment Nfa::Copy(const Dfa& dfa) {
  const StateId end = AddState();
  std::vector<StateId> copies;
  for (size_t i = 0; i < dfa.states.size(); ++i) copies.push_back(AddState());
  for (size_t i = 0; i < dfa.states.size(); ++i) {
    for (const Dfa::SymbolEdge& edge : dfa.states[i].symbols) {
      AddSymbols(copies[i], edge.first, edge.last, copies[edge.target]);
    }
    if (dfa.states[i].accepting) AddEmpty(copies[i], end);
  }
  return {copies[0], end};
}

// One subset construction.
class Determiniser {
 public:
  using IsNullable = std::function<bool(RuleId)>;
  Determiniser(const Nfa& nfa, const IsNullable& is_nullable)
      : nfa_(nfa), is_nullable_(is_nullable), seen_(nfa.states_.size(), 0) {}

  std::vector<StateId> Closure(std::vector<StateId> states) {
    ++round_;
    std::vector<StateId> out;
    for (const StateId state : states) Visit(state, &out);
    for (size_t i = 0; i < out.size(); ++i) {
      const Nfa::State& state = nfa_.states_[out[i]];
      for (const StateId next : state.empty) Visit(next, &out);
      for (const Dfa::CallEdge& call : state.calls) {
        if (is_nullable_(call.rule)) Visit(call.target, &out);
      }
    }
    nfa_.budget_.Take(static_cast<int64_t>(out.size()));
    std::sort(out.begin(), out.end());
    return out;
  }

  Dfa Run(Fragment whole) {
    end_ = whole.end;
    // The start has a state of its own, to which nothing leads back.
    subsets_.push_back(Closure({whole.begin}));
    dfa_.states.emplace_back();
    for (size_t i = 0; i < subsets_.size() && !nfa_.budget_.spent(); ++i) {
      Expand(static_cast<StateId>(i));
    }
    if (nfa_.budget_.spent()) {
      dfa_.states.assign(1, {});
      return std::move(dfa_);
    }
    Trim(&dfa_);
    return std::move(dfa_);
  }

 private:
  void Visit(StateId state, std::vector<StateId>* out) {
    if (seen_[state] == round_) return;
    seen_[state] = round_;
    out->push_back(state);
  }

  StateId SubsetId(std::vector<StateId> targets) {
    std::vector<StateId> subset = Closure(std::move(targets));
    const auto [entry, is_new] = ids_.try_emplace(subset, static_cast<StateId>(subsets_.size()));
    if (is_new) {
      subsets_.push_back(std::move(subset));
      dfa_.states.emplace_back();
    }
    return entry->second;
  }

  void Expand(StateId id) {
    std::vector<Dfa::SymbolEdge> edges;
    std::map<RuleId, std::vector<StateId>> calls;
    for (const StateId member : subsets_[id]) {
      const Nfa::State& state = nfa_.states_[member];
      edges.insert(edges.end(), state.symbols.begin(), state.symbols.end());
      for (const Dfa::CallEdge& call : state.calls) calls[call.rule].push_back(call.target);
      if (member == end_) dfa_.states[id].accepting = true;
    }
    ExpandSymbols(id, edges);
    for (auto& [rule, targets] : calls) {
      const StateId target = SubsetId(std::move(targets));
      dfa_.states[id].calls.push_back({rule, target});
    }
  }

  void ExpandSymbols(StateId id, const std::vector<Dfa::SymbolEdge>& edges) {
    std::vector<int32_t> cuts;
    for (const Dfa::SymbolEdge& edge : edges) {
      cuts.push_back(edge.first);
      cuts.push_back(edge.last + 1);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      std::vector<StateId> targets;
      for (const Dfa::SymbolEdge& edge : edges) {
        if (edge.first <= cuts[i] && cuts[i] <= edge.last) targets.push_back(edge.target);
      }
      if (!nfa_.budget_.Take(static_cast<int64_t>(edges.size()) + 1)) return;
      if (targets.empty()) continue;
      const StateId target = SubsetId(std::move(targets));
      std::vector<Dfa::SymbolEdge>& out = dfa_.states[id].symbols;
      const auto first = static_cast<uint16_t>(cuts[i]);
      const auto last = static_cast<uint16_t>(cuts[i + 1] - 1);
      if (!out.empty() && out.back().target == target && out.back().last + 1 == first) {
        out.back().last = last;
      } else {
        out.push_back({first, last, target});
      }
    }
  }

  const Nfa& nfa_;
  const IsNullable& is_nullable_;
  std::vector<int32_t> seen_;
  int32_t round_ = 0;
  StateId end_ = 0;
  std::vector<std::vector<StateId>> subsets_;
  absl::flat_hash_map<std::vector<StateId>, StateId> ids_;
  Dfa dfa_;
};

Dfa Nfa::Determinise(Fragment whole, const std::function<bool(RuleId)>& is_nullable) const {
  return Determiniser(*this, is_nullable).Run(whole);
}

Dfa Nfa::Determinise(Fragment whole) const {
  return Determinise(whole, [](RuleId) { return false; });
}

bool Nfa::IsNullable(Fragment whole, const std::function<bool(RuleId)>& is_nullable) const {
  const std::vector<StateId> reached = Determiniser(*this, is_nullable).Closure({whole.begin});
  return std::binary_search(reached.begin(), reached.end(), whole.end);
}

}  // namespace tessera::grammar
