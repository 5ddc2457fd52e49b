#include <algorithm>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/grammar/automaton.h"

namespace tessera::grammar {
namespace {

constexpr StateId kNone = -1;

std::vector<bool> Forward(const Dfa& dfa) {
  std::vector<bool> reached(dfa.states.size(), false);
  std::vector<StateId> todo = {0};
  reached[0] = true;
  const auto visit = [&](StateId target) {
    if (reached[target]) return;
    reached[target] = true;
    todo.push_back(target);
  };
  while (!todo.empty()) {
    const Dfa::State& state = dfa.states[todo.back()];
    todo.pop_back();
    for (const Dfa::SymbolEdge& edge : state.symbols) visit(edge.target);
    for (const Dfa::CallEdge& edge : state.calls) visit(edge.target);
  }
  return reached;
}

std::vector<bool> Backward(const Dfa& dfa) {
  std::vector<std::vector<StateId>> sources(dfa.states.size());
  std::vector<bool> alive(dfa.states.size(), false);
  std::vector<StateId> todo;
  for (size_t i = 0; i < dfa.states.size(); ++i) {
    const auto id = static_cast<StateId>(i);
    for (const Dfa::SymbolEdge& edge : dfa.states[i].symbols) sources[edge.target].push_back(id);
    for (const Dfa::CallEdge& edge : dfa.states[i].calls) sources[edge.target].push_back(id);
    if (!dfa.states[i].accepting) continue;
    alive[i] = true;
    todo.push_back(id);
  }
  while (!todo.empty()) {
    const StateId state = todo.back();
    todo.pop_back();
    for (const StateId source : sources[state]) {
      if (alive[source]) continue;
      alive[source] = true;
      todo.push_back(source);
    }
  }
  return alive;
}

// Pairs of states of two automata, and what becomes of them.
class Product {
 public:
  Product(const Dfa& a, const Dfa& b, BuildBudget* budget) : a_(a), b_(b), budget_(*budget) {}

  Dfa Run() {
    dfa_.states.emplace_back();
    pairs_.emplace_back(0, 0);
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto [x, y] = pairs_[i];
      dfa_.states[i].accepting = a_.states[x].accepting && b_.states[y].accepting;
      Expand(i);
      if (budget_.spent()) break;
    }
    if (budget_.spent()) dfa_.states.assign(1, {});
    Trim(&dfa_);
    return std::move(dfa_);
  }

 private:
  void Expand(size_t id) {
    const auto [x, y] = pairs_[id];
    for (const Dfa::SymbolEdge& p : a_.states[x].symbols) {
      for (const Dfa::SymbolEdge& q : b_.states[y].symbols) {
        if (!budget_.Take()) return;
        const uint16_t first = std::max(p.first, q.first);
        const uint16_t last = std::min(p.last, q.last);
        if (first > last) continue;
        const StateId target = IdOf(p.target, q.target);
        dfa_.states[id].symbols.push_back({first, last, target});
      }
    }
  }

  StateId IdOf(StateId x, StateId y) {
    const auto [entry, is_new] = ids_.try_emplace({x, y}, static_cast<StateId>(pairs_.size()));
    if (is_new) {
      budget_.Take(sizeof(Dfa::State) / 8);
      pairs_.emplace_back(x, y);
      dfa_.states.emplace_back();
    }
    return entry->second;
  }

  const Dfa& a_;
  const Dfa& b_;
  BuildBudget& budget_;
  std::vector<std::pair<StateId, StateId>> pairs_;
  absl::flat_hash_map<std::pair<StateId, StateId>, StateId> ids_;
  Dfa dfa_;
};

}  // namespace

void Trim(Dfa* dfa) {
  const std::vector<bool> reached = Forward(*dfa);
  const std::vector<bool> alive = Backward(*dfa);
  std::vector<StateId> renamed(dfa->states.size(), kNone);
  StateId next = 0;
  for (size_t i = 0; i < dfa->states.size(); ++i) {
    if (i == 0 || (reached[i] && alive[i])) renamed[i] = next++;
  }
  const auto is_dead = [&](const auto& edge) { return renamed[edge.target] == kNone; };
  std::vector<Dfa::State> kept(next);
  for (size_t i = 0; i < dfa->states.size(); ++i) {
    if (renamed[i] == kNone) continue;
    Dfa::State state = std::move(dfa->states[i]);
    state.symbols.erase(std::remove_if(state.symbols.begin(), state.symbols.end(), is_dead),
                        state.symbols.end());
    state.calls.erase(std::remove_if(state.calls.begin(), state.calls.end(), is_dead),
                      state.calls.end());
    for (Dfa::SymbolEdge& edge : state.symbols) edge.target = renamed[edge.target];
    for (Dfa::CallEdge& edge : state.calls) edge.target = renamed[edge.target];
    kept[renamed[i]] = std::move(state);
  }
  dfa->states = std::move(kept);
}

Dfa Intersect(const Dfa& a, const Dfa& b, BuildBudget* budget) {
  return Product(a, b, budget).Run();
}

Dfa Complement(const Dfa& a, BuildBudget* budget) {
  Dfa out = a;
  const auto sink = static_cast<StateId>(out.states.size());
  out.states.emplace_back();
  for (Dfa::State& state : out.states) {
    std::vector<Dfa::SymbolEdge> full;
    int32_t next = 0;
    const auto fill = [&](int32_t end) {
      if (next < end) {
        full.push_back({static_cast<uint16_t>(next), static_cast<uint16_t>(end - 1), sink});
      }
    };
    for (const Dfa::SymbolEdge& edge : state.symbols) {
      fill(edge.first);
      full.push_back(edge);
      next = edge.last + 1;
    }
    fill(kByteSymbols);
    budget->Take(static_cast<int64_t>(full.size()));
    state.symbols = std::move(full);
    state.accepting = !state.accepting;
  }
  Trim(&out);
  return out;
}

Dfa LiteralSet(absl::Span<const std::string_view> texts, BuildBudget* budget) {
  Nfa nfa(budget);
  std::vector<Fragment> parts;
  parts.reserve(texts.size());
  for (const std::string_view text : texts) parts.push_back(nfa.Literal(text));
  return nfa.Determinise(nfa.Alternate(parts));
}

}  // namespace tessera::grammar
