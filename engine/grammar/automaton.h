// Finite automata over symbols: bytes, tokens that are no bytes, and calls of rules.
//
// An Nfa is built from fragments (Thompson's construction) and determinised (subset construction);
// a call is a symbol like any other there. Dfas without calls can be intersected and complemented.
// All is bounded by a BuildBudget; sizes are states.
#ifndef TESSERA_ENGINE_GRAMMAR_AUTOMATON_H_
#define TESSERA_ENGINE_GRAMMAR_AUTOMATON_H_

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "engine/grammar/build_budget.h"

namespace tessera::grammar {

using StateId = int32_t;
using RuleId = int32_t;

// Symbols [0, 256) are bytes, [256, 256 + n) the n token terminals of a grammar.
inline constexpr int32_t kByteSymbols = 256;

// Unicode scalar values, both ends included.
struct CodePointRange {
  uint32_t first = 0;
  uint32_t last = 0;
};

inline constexpr uint32_t kMaxCodePoint = 0x10FFFF;

// Deterministic: at most one target per symbol and per rule. State 0 is the start; no edge leads
// back to it. The edges of a state are sorted and do not overlap.
struct Dfa {
  struct SymbolEdge {
    uint16_t first = 0;
    uint16_t last = 0;
    StateId target = 0;
  };
  struct CallEdge {
    RuleId rule = 0;
    StateId target = 0;
  };
  struct State {
    std::vector<SymbolEdge> symbols;
    std::vector<CallEdge> calls;
    bool accepting = false;
  };
  std::vector<State> states;

  // -1: none.
  StateId Next(StateId state, int32_t symbol) const;
  // For automata without calls.
  bool Accepts(std::string_view text) const;
  bool IsEmpty() const { return states.size() == 1 && !states[0].accepting; }
};

// A part of an Nfa with one way in and one way out.
struct Fragment {
  StateId begin = 0;
  StateId end = 0;
};

class Nfa {
 public:
  explicit Nfa(BuildBudget* budget) : budget_(*budget) { AddState(); }

  Fragment Empty();
  Fragment Nothing();  // accepts no text at all
  Fragment Symbols(int32_t first, int32_t last);
  Fragment Literal(std::string_view bytes);
  // One code point of `ranges`, as UTF-8; surrogates are left out.
  Fragment CodePoints(absl::Span<const CodePointRange> ranges);
  Fragment Call(RuleId rule);
  Fragment Concat(Fragment a, Fragment b);
  Fragment Concat(absl::Span<const Fragment> parts);
  Fragment Alternate(absl::Span<const Fragment> parts);
  Fragment Optional(Fragment a);
  Fragment Star(Fragment a);
  Fragment Plus(Fragment a);
  // `make` builds the part once per copy. max < 0: without a bound.
  Fragment Repeat(const std::function<Fragment()>& make, int64_t min, int64_t max);
  // A copy of a Dfa without calls.
  Fragment Copy(const Dfa& dfa);

  StateId AddState();
  void AddEmpty(StateId from, StateId to);
  void AddSymbols(StateId from, int32_t first, int32_t last, StateId to);
  void AddCall(StateId from, RuleId rule, StateId to);

  // Calls of rules for which `is_nullable` holds may also be skipped.
  Dfa Determinise(Fragment whole, const std::function<bool(RuleId)>& is_nullable) const;
  Dfa Determinise(Fragment whole) const;
  // Whether the end can be reached without a symbol when calls of `is_nullable` rules can.
  bool IsNullable(Fragment whole, const std::function<bool(RuleId)>& is_nullable) const;

  BuildBudget* budget() const { return &budget_; }

 private:
  friend class Determiniser;
  struct State {
    std::vector<StateId> empty;
    std::vector<Dfa::SymbolEdge> symbols;
    std::vector<Dfa::CallEdge> calls;
  };

  void AddCodePoints(uint32_t first, uint32_t last, StateId from, StateId to);

  BuildBudget& budget_;
  std::vector<State> states_;
};

// Of automata over bytes, without calls. Results have no states that lead nowhere.
Dfa Intersect(const Dfa& a, const Dfa& b, BuildBudget* budget);
// All byte strings that `a` does not accept.
Dfa Complement(const Dfa& a, BuildBudget* budget);
Dfa LiteralSet(absl::Span<const std::string_view> texts, BuildBudget* budget);

// Removes states that reach no accepting one (calls count as passable) or are not reached.
void Trim(Dfa* dfa);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_AUTOMATON_H_
