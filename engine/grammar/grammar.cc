#include "engine/grammar/grammar.h"

#include <algorithm>
#include <queue>
#include <utility>

#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

constexpr size_t kMaxShownName = 100;
constexpr int32_t kMaxLineFeeds = 2;  // between </think> and the answer

int64_t Sum(int64_t a, int64_t b) { return std::min(a + b, kEndless); }

int64_t Times(uint32_t n, int64_t cost) {
  return cost >= kEndless / std::max<int64_t>(n, 1) ? kEndless : n * cost;
}

// The lengths of shortest texts, cheapest first (Knuth 1977, "A generalization of Dijkstra's
// algorithm"): what a state or a rule costs is final when it is taken from the queue.
class ShortestTexts {
 public:
  explicit ShortestTexts(Grammar* grammar)
      : grammar_(*grammar),
        state_done_(grammar->states.size()),
        rule_done_(grammar->rules.size()),
        into_state_(grammar->states.size()),
        calls_of_(grammar->rules.size()),
        counted_by_(grammar->rules.size()),
        starts_(grammar->states.size(), -1) {}

  void Run() {
    Index();
    while (!queue_.empty()) {
      const auto [cost, id] = queue_.top();
      queue_.pop();
      if (id >= 0) {
        FinishState(id, cost);
      } else {
        FinishRule(-id - 1, cost);
      }
    }
  }

 private:
  struct Source {
    StateId state = 0;
    RuleId rule = -1;  // the call between; -1: one symbol
  };

  void Index() {
    for (size_t i = 0; i < grammar_.states.size(); ++i) {
      const auto id = static_cast<StateId>(i);
      const Grammar::State& state = grammar_.states[i];
      for (const auto& edge : state.symbols) into_state_[edge.target].push_back({id, -1});
      for (const auto& edge : state.calls) {
        into_state_[edge.target].push_back({id, edge.rule});
        calls_of_[edge.rule].push_back({id, edge.target});
      }
      if (state.accepting && state.counted < 0) queue_.emplace(0, id);
    }
    for (size_t i = 0; i < grammar_.rules.size(); ++i) {
      const Grammar::Rule& rule = grammar_.rules[i];
      if (rule.body >= 0) {
        counted_by_[rule.body].push_back(static_cast<RuleId>(i));
      } else {
        starts_[rule.start] = static_cast<RuleId>(i);
      }
    }
  }

  // The way out of a state may go through a call whose price is not known yet.
  void Offer(const Source& source, int64_t after) {
    if (source.rule < 0) return Push(source.state, Sum(1, after));
    if (rule_done_[source.rule]) {
      Push(source.state, Sum(grammar_.rules[source.rule].cost, after));
    }
  }

  void Push(StateId state, int64_t cost) {
    if (cost >= kEndless) return;
    if (!state_done_[state]) queue_.emplace(cost, state);
    // A rule that is entered consumes: its price is that of the edges of its start.
    const RuleId rule = starts_[state];
    if (rule >= 0 && !rule_done_[rule]) queue_.emplace(cost, -rule - 1);
  }

  void FinishState(StateId id, int64_t cost) {
    if (state_done_[id]) return;
    state_done_[id] = true;
    grammar_.states[id].cost = cost;
    for (const Source& source : into_state_[id]) Offer(source, cost);
  }

  void FinishRule(RuleId id, int64_t cost) {
    if (rule_done_[id]) return;
    rule_done_[id] = true;
    grammar_.rules[id].cost = cost;
    for (const auto& [state, target] : calls_of_[id]) {
      if (state_done_[target]) Push(state, Sum(cost, grammar_.states[target].cost));
    }
    for (const RuleId counted : counted_by_[id]) {
      const Grammar::Rule& rule = grammar_.rules[counted];
      const int64_t total = Times(std::max(rule.min, 1U), cost);
      if (rule.max > 0 && total < kEndless) queue_.emplace(total, -counted - 1);
    }
  }

  Grammar& grammar_;
  std::vector<bool> state_done_;
  std::vector<bool> rule_done_;
  std::vector<std::vector<Source>> into_state_;
  std::vector<std::vector<std::pair<StateId, StateId>>> calls_of_;  // from, to
  std::vector<std::vector<RuleId>> counted_by_;
  std::vector<RuleId> starts_;
  // (cost, state) or (cost, -rule - 1)
  std::priority_queue<std::pair<int64_t, int32_t>, std::vector<std::pair<int64_t, int32_t>>,
                      std::greater<>>
      queue_;
};

}  // namespace

RuleId GrammarBuilder::Declare(std::string name) {
  budget_.Take(8);
  drafts_.push_back({.name = std::move(name)});
  return static_cast<RuleId>(drafts_.size()) - 1;
}

void GrammarBuilder::Define(RuleId rule, Nfa nfa, Fragment whole) {
  drafts_[rule].defined = true;
  drafts_[rule].nfa = std::make_unique<Nfa>(std::move(nfa));
  drafts_[rule].whole = whole;
}

void GrammarBuilder::Define(RuleId rule, Dfa dfa) {
  drafts_[rule].defined = true;
  drafts_[rule].dfa = std::move(dfa);
}

void GrammarBuilder::DefineCounted(RuleId rule, RuleId body, uint32_t min, uint32_t max) {
  drafts_[rule].defined = true;
  drafts_[rule].body = body;
  drafts_[rule].min = min;
  drafts_[rule].max = max;
}

int32_t GrammarBuilder::Terminal(int32_t token_id) {
  std::vector<int32_t>& known = grammar_.terminals;
  const auto found = std::find(known.begin(), known.end(), token_id);
  const auto index = static_cast<int32_t>(found - known.begin());
  if (found == known.end()) known.push_back(token_id);
  return kByteSymbols + index;
}

void GrammarBuilder::FindNullable() {
  const auto is_nullable = [&](RuleId rule) { return drafts_[rule].nullable; };
  bool changed = true;
  while (changed && !budget_.spent()) {
    changed = false;
    // Later rules are as a rule called by earlier ones.
    for (size_t i = drafts_.size(); i-- > 0;) {
      Draft& draft = drafts_[i];
      if (draft.nullable) continue;
      if (draft.body >= 0) {
        draft.nullable = draft.min == 0 || drafts_[draft.body].nullable;
      } else if (draft.nfa != nullptr) {
        draft.nullable = draft.nfa->IsNullable(draft.whole, is_nullable);
      } else {
        draft.nullable = draft.dfa.states[0].accepting;
      }
      changed = changed || draft.nullable;
    }
  }
}

// Determinises every rule and numbers the states of all of them together.
void GrammarBuilder::PlaceStates() {
  const auto is_nullable = [&](RuleId rule) { return drafts_[rule].nullable; };
  for (size_t i = 0; i < drafts_.size(); ++i) {
    Draft& draft = drafts_[i];
    const auto base = static_cast<StateId>(grammar_.states.size());
    Grammar::Rule rule{.start = base, .body = draft.body, .min = draft.min, .max = draft.max};
    if (draft.body >= 0) {
      if (drafts_[draft.body].nullable) rule.min = 0;
      grammar_.states.push_back({.counted = static_cast<RuleId>(i)});
    } else {
      if (draft.nfa != nullptr) draft.dfa = draft.nfa->Determinise(draft.whole, is_nullable);
      draft.nfa.reset();
      for (Dfa::State& state : draft.dfa.states) {
        for (Dfa::SymbolEdge& edge : state.symbols) edge.target += base;
        for (Dfa::CallEdge& edge : state.calls) edge.target += base;
        grammar_.states.push_back({.symbols = std::move(state.symbols),
                                   .calls = std::move(state.calls),
                                   .accepting = state.accepting});
      }
      draft.dfa.states.clear();
    }
    grammar_.rules.push_back(rule);
  }
}

// Edges from which no text reaches the end.
void GrammarBuilder::DropDeadEnds() {
  for (Grammar::State& state : grammar_.states) {
    const auto is_dead = [&](const auto& edge) {
      return grammar_.states[edge.target].cost >= kEndless;
    };
    const auto is_dead_call = [&](const Dfa::CallEdge& edge) {
      return grammar_.rules[edge.rule].cost >= kEndless || is_dead(edge);
    };
    state.symbols.erase(std::remove_if(state.symbols.begin(), state.symbols.end(), is_dead),
                        state.symbols.end());
    state.calls.erase(std::remove_if(state.calls.begin(), state.calls.end(), is_dead_call),
                      state.calls.end());
  }
}

void GrammarBuilder::FindCosts() {
  ShortestTexts(&grammar_).Run();
  // Whoever is at the start of a rule has entered it, and has to consume.
  for (const Grammar::Rule& rule : grammar_.rules) grammar_.states[rule.start].cost = rule.cost;
}

absl::Status GrammarBuilder::Analyse() {
  for (const Draft& draft : drafts_) {
    if (draft.defined) continue;
    return absl::InvalidArgumentError(
        Message("the rule \"", draft.name.substr(0, kMaxShownName), "\" is not defined"));
  }
  FindNullable();
  PlaceStates();
  RETURN_IF_ERROR(budget_.status());
  FindCosts();
  DropDeadEnds();
  for (size_t i = 0; i < drafts_.size(); ++i) {
    empty_.push_back(grammar_.rules[i].cost >= kEndless && !drafts_[i].nullable);
  }
  return absl::OkStatus();
}

// Rules that can be entered at the very start of a rule must not lead back to it.
absl::Status GrammarBuilder::CheckLeftRecursion() const {
  enum : uint8_t { kNew, kOpen, kDone };
  std::vector<uint8_t> marks(grammar_.rules.size(), kNew);
  const auto first_calls = [&](RuleId id) {
    const Grammar::Rule& rule = grammar_.rules[id];
    std::vector<RuleId> out;
    if (rule.body >= 0) return std::vector<RuleId>{rule.body};
    for (const Dfa::CallEdge& call : grammar_.states[rule.start].calls) out.push_back(call.rule);
    return out;
  };
  for (size_t i = 0; i < marks.size(); ++i) {
    if (marks[i] != kNew) continue;
    std::vector<std::pair<RuleId, std::vector<RuleId>>> path;
    const auto open = [&](RuleId rule) {
      marks[rule] = kOpen;
      path.emplace_back(rule, first_calls(rule));
    };
    open(static_cast<RuleId>(i));
    while (!path.empty()) {
      auto& [rule, calls] = path.back();
      if (calls.empty()) {
        marks[rule] = kDone;
        path.pop_back();
        continue;
      }
      const RuleId next = calls.back();
      calls.pop_back();
      if (marks[next] == kOpen) {
        return absl::InvalidArgumentError(
            Message("the rule \"", drafts_[next].name.substr(0, kMaxShownName),
                    "\" begins with itself (left recursion); write it as a repetition"));
      }
      if (marks[next] == kNew) open(next);
    }
  }
  return absl::OkStatus();
}

void GrammarBuilder::ClassifySymbols() {
  const size_t size = kByteSymbols + grammar_.terminals.size();
  std::vector<bool> begins(size + 1, false);
  begins[0] = true;
  for (const Grammar::State& state : grammar_.states) {
    for (const Dfa::SymbolEdge& edge : state.symbols) {
      begins[edge.first] = true;
      begins[edge.last + 1] = true;
    }
  }
  grammar_.symbol_class.resize(size);
  int32_t next = -1;
  for (size_t symbol = 0; symbol < size; ++symbol) {
    if (begins[symbol]) ++next;
    grammar_.symbol_class[symbol] = static_cast<uint16_t>(next);
  }
  grammar_.num_classes = next + 1;
}

absl::StatusOr<std::shared_ptr<const Grammar>> GrammarBuilder::Finish(RuleId root) {
  const RuleId after_thinking = Declare("root after thinking");
  Nfa nfa(&budget_);
  const Fragment before = nfa.Repeat([&] { return nfa.Literal("\n"); }, 0, kMaxLineFeeds);
  const Fragment whole = nfa.Concat(before, nfa.Call(root));
  Define(after_thinking, std::move(nfa), whole);
  RETURN_IF_ERROR(Analyse());
  grammar_.root = root;
  grammar_.after_thinking = after_thinking;
  grammar_.root_is_nullable = drafts_[root].nullable;
  if (IsEmpty(root)) return absl::InvalidArgumentError("cannot be satisfied: nothing matches it");
  if (grammar_.shortest() > kMaxShortestText) {
    return absl::InvalidArgumentError(
        Message("the shortest text that matches is longer than ", kMaxShortestText, " bytes"));
  }
  RETURN_IF_ERROR(CheckLeftRecursion());
  ClassifySymbols();
  grammar_.bytes = sizeof(Grammar) + grammar_.rules.size() * sizeof(Grammar::Rule);
  for (const Grammar::State& state : grammar_.states) {
    grammar_.bytes += sizeof(state) + state.symbols.size() * sizeof(Dfa::SymbolEdge) +
                      state.calls.size() * sizeof(Dfa::CallEdge);
  }
  return std::make_shared<const Grammar>(std::move(grammar_));
}

}  // namespace tessera::grammar
