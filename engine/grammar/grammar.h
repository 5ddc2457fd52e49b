// A compiled grammar: rules that call each other, each a deterministic automaton over symbols and
// calls, or a counted repetition of another rule.
//
// Calls of rules that may match nothing are skipped by the automata themselves; a rule that was
// entered always consumes. So nothing loops without consuming, once left recursion is refused.
#ifndef TESSERA_ENGINE_GRAMMAR_GRAMMAR_H_
#define TESSERA_ENGINE_GRAMMAR_GRAMMAR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/grammar/automaton.h"

namespace tessera::grammar {

inline constexpr uint32_t kUnbounded = 0xFFFFFFFF;
// Symbols from somewhere to the end of the text; what is larger counts as this.
inline constexpr int64_t kEndless = int64_t{1} << 40;
// Grammars whose shortest text is longer are refused.
inline constexpr int64_t kMaxShortestText = 1 << 17;

// Immutable; any number of threads. States of all rules are numbered together.
struct Grammar {
  struct State {
    std::vector<Dfa::SymbolEdge> symbols;
    std::vector<Dfa::CallEdge> calls;
    bool accepting = false;
    RuleId counted = -1;      // >= 0: the place "between two repetitions" of that rule
    int64_t cost = kEndless;  // symbols of the shortest text from here to the end of the rule
    // A state that only ends its rule: whoever calls into it need not come back.
    bool only_ends() const { return accepting && symbols.empty() && calls.empty() && counted < 0; }
  };
  struct Rule {
    StateId start = -1;       // of counted rules: the state with `counted`
    RuleId body = -1;         // of counted rules
    uint32_t min = 0;         // of counted rules; at least 1 when entered
    uint32_t max = 0;         // kUnbounded: none
    int64_t cost = kEndless;  // symbols of the shortest text that is not empty
  };

  std::vector<State> states;
  std::vector<Rule> rules;
  RuleId root = 0;
  RuleId after_thinking = 0;  // the root behind up to two line feeds
  bool root_is_nullable = false;
  std::vector<int32_t> terminals;  // token id of symbol kByteSymbols + i
  // Symbols that no edge tells apart have one class.
  std::vector<uint16_t> symbol_class;  // [kByteSymbols + terminals.size()]
  int32_t num_classes = 0;
  // Symbols of the shortest text.
  int64_t shortest() const { return root_is_nullable ? 0 : rules[root].cost; }
  size_t bytes = 0;  // memory, roughly
};

// Collects rules, then compiles them. One thread.
class GrammarBuilder {
 public:
  explicit GrammarBuilder(BuildBudget* budget) : budget_(*budget) {}

  // A rule that will be defined below; `name` is for refusals.
  RuleId Declare(std::string name);
  void Define(RuleId rule, Nfa nfa, Fragment whole);
  void Define(RuleId rule, Dfa dfa);
  // `body`, `min` to `max` times.
  void DefineCounted(RuleId rule, RuleId body, uint32_t min, uint32_t max);
  // The symbol of a token that is no bytes.
  int32_t Terminal(int32_t token_id);

  // InvalidArgument when a rule is left recursive, undefined, or the root matches nothing.
  // Nothing may be defined afterwards.
  absl::StatusOr<std::shared_ptr<const Grammar>> Finish(RuleId root);

  // Whether a rule matches no text at all. Once Finish has analysed the rules, whatever it
  // returned.
  bool IsEmpty(RuleId rule) const { return empty_[rule]; }

  BuildBudget* budget() const { return &budget_; }

 private:
  struct Draft {
    std::string name;
    bool defined = false;
    bool nullable = false;
    std::unique_ptr<Nfa> nfa;
    Fragment whole;
    Dfa dfa;
    RuleId body = -1;
    uint32_t min = 0;
    uint32_t max = 0;
  };

  absl::Status Analyse();
  void FindNullable();
  void PlaceStates();
  void FindCosts();
  void DropDeadEnds();
  void ClassifySymbols();
  absl::Status CheckLeftRecursion() const;

  BuildBudget& budget_;
  std::vector<Draft> drafts_;
  std::vector<bool> empty_;  // rules that match nothing; known when all is analysed
  Grammar grammar_;
};

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_GRAMMAR_H_
