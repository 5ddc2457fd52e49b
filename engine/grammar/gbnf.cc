#include "engine/grammar/gbnf.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "engine/files/message.h"
#include "engine/grammar/regex.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

constexpr int32_t kMaxGroups = 64;  // within each other
constexpr int64_t kMaxBound = 1'000'000;

bool IsNameByte(char c) {
  return absl::ascii_isalnum(static_cast<uint8_t>(c)) || c == '-' || c == '_' || c == '.';
}

class Reader {
 public:
  Reader(std::string_view text, const TokenLookup& find_token, GrammarBuilder* builder)
      : rest_(text), size_(text.size()), find_token_(find_token), builder_(*builder) {}

  absl::StatusOr<RuleId> Read() {
    SkipSpace(true);
    if (rest_.empty()) return Error("there is no rule");
    while (!rest_.empty()) {
      RETURN_IF_ERROR(ReadRule());
      RETURN_IF_ERROR(builder_.budget()->status());
      SkipSpace(true);
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) return absl::InvalidArgumentError("has no rule \"root\"");
    return root->second;
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(
        Message("is no grammar that works here: at byte ", size_ - rest_.size(), ": ", what));
  }

  bool Take(std::string_view prefix) {
    if (!rest_.starts_with(prefix)) return false;
    rest_.remove_prefix(prefix.size());
    return true;
  }

  // A rule ends with its line, unless it is inside of a group or goes on with "|".
  void SkipSpace(bool lines) {
    while (!rest_.empty()) {
      const char c = rest_[0];
      if (c == '#') {
        rest_.remove_prefix(std::min(rest_.find('\n'), rest_.size()));
      } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
        rest_.remove_prefix(1);
      } else {
        return;
      }
    }
  }

  std::string_view Name() {
    size_t length = 0;
    while (length < rest_.size() && IsNameByte(rest_[length])) ++length;
    const std::string_view name = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return name;
  }

  RuleId RuleOf(std::string_view name) {
    const auto [entry, is_new] = rules_.try_emplace(std::string(name), 0);
    if (is_new) entry->second = builder_.Declare(std::string(name));
    return entry->second;
  }

  absl::Status ReadRule() {
    const std::string_view name = Name();
    if (name.empty()) return Error("expected the name of a rule");
    SkipSpace(false);
    if (!Take("::=")) return Error("expected \"::=\"");
    const RuleId rule = RuleOf(name);
    if (!defined_.emplace(rule, true).second) {
      return Error(Message("the rule \"", name.substr(0, 100), "\" is defined twice"));
    }
    SkipSpace(true);
    Nfa nfa(builder_.budget());
    ASSIGN_OR_RETURN(const Fragment whole, Alternatives(&nfa, 0));
    if (!rest_.empty() && rest_[0] != '\n' && rest_[0] != '\r') return Error("unexpected text");
    builder_.Define(rule, std::move(nfa), whole);
    return absl::OkStatus();
  }

  absl::StatusOr<Fragment> Alternatives(Nfa* nfa, int32_t depth) {
    if (depth > kMaxGroups) return Error("groups are nested too deeply");
    std::vector<Fragment> parts;
    do {
      SkipSpace(true);
      ASSIGN_OR_RETURN(const Fragment part, Sequence(nfa, depth));
      parts.push_back(part);
    } while (TakeBar(depth));
    return nfa->Alternate(parts);
  }

  bool TakeBar(int32_t depth) {
    const std::string_view before = rest_;
    SkipSpace(true);
    if (Take("|")) return true;
    if (depth == 0) rest_ = before;
    return false;
  }

  absl::StatusOr<Fragment> Sequence(Nfa* nfa, int32_t depth) {
    Fragment out = nfa->Empty();
    while (true) {
      SkipSpace(depth > 0);
      if (rest_.empty() || std::string_view("|)\n\r").find(rest_[0]) != std::string_view::npos) {
        return out;
      }
      ASSIGN_OR_RETURN(Fragment item, Item(nfa, depth));
      ASSIGN_OR_RETURN(item, Repeated(item, nfa));
      out = nfa->Concat(out, item);
    }
  }

  absl::StatusOr<Fragment> Item(Nfa* nfa, int32_t depth) {
    if (Take("\"")) return Literal(nfa);
    if (Take("[")) return Class(nfa);
    if (Take("(")) {
      ASSIGN_OR_RETURN(const Fragment group, Alternatives(nfa, depth + 1));
      SkipSpace(true);
      if (!Take(")")) return Error("missing \")\"");
      return group;
    }
    if (Take("<")) return Token(nfa);
    if (Take("!<")) return Error("\"!\" in front of a token is not supported");
    if (rest_[0] == '.') {
      rest_.remove_prefix(1);
      return nfa->CodePoints({{{0, kMaxCodePoint}}});
    }
    const std::string_view name = Name();
    if (name.empty()) return Error("expected a literal, a class, a group or the name of a rule");
    return nfa->Call(RuleOf(name));
  }

  absl::StatusOr<Fragment> Token(Nfa* nfa) {
    const size_t end = rest_.find('>');
    if (end == std::string_view::npos) return Error("missing \">\"");
    std::string_view inside = rest_.substr(0, end);
    const bool is_id = inside.starts_with('[') && inside.ends_with(']');
    const std::string text =
        is_id ? std::string(inside.substr(1, inside.size() - 2)) : Message("<", inside, ">");
    const std::optional<int32_t> token = find_token_(text);
    if (!token) return Error(Message("there is no token \"", text.substr(0, 100), "\""));
    rest_.remove_prefix(end + 1);
    const int32_t symbol = builder_.Terminal(*token);
    return nfa->Symbols(symbol, symbol);
  }

  absl::StatusOr<uint32_t> Character() {
    if (!Take("\\")) {
      uint32_t c = 0;
      if (!TakeCodePoint(&rest_, &c)) return Error("not valid UTF-8");
      return c;
    }
    if (rest_.empty()) return Error("unfinished escape");
    const char kind = rest_[0];
    rest_.remove_prefix(1);
    uint32_t value = 0;
    switch (kind) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
      case 'u':
      case 'U':
        if (!TakeHex(&rest_,
                     kind == 'x'   ? 2
                     : kind == 'u' ? 4
                                   : 8,
                     &value) ||
            value > kMaxCodePoint) {
          return Error("bad escape");
        }
        return value;
      default:
        break;
    }
    if (absl::ascii_ispunct(static_cast<uint8_t>(kind))) return static_cast<uint8_t>(kind);
    return Error("unknown escape");
  }

  absl::StatusOr<Fragment> Literal(Nfa* nfa) {
    Fragment out = nfa->Empty();
    while (!Take("\"")) {
      if (rest_.empty()) return Error("missing '\"'");
      ASSIGN_OR_RETURN(const uint32_t c, Character());
      out = nfa->Concat(out, nfa->CodePoints({{{c, c}}}));
    }
    return out;
  }

  absl::StatusOr<Fragment> Class(Nfa* nfa) {
    const bool negated = Take("^");
    std::vector<CodePointRange> ranges;
    while (!Take("]")) {
      if (rest_.empty()) return Error("missing \"]\"");
      ASSIGN_OR_RETURN(const uint32_t first, Character());
      uint32_t last = first;
      if (rest_.size() > 1 && rest_[0] == '-' && rest_[1] != ']') {
        rest_.remove_prefix(1);
        ASSIGN_OR_RETURN(last, Character());
        if (last < first) return Error("a range whose ends are in the wrong order");
      }
      ranges.push_back({first, last});
    }
    ranges = Normalised(std::move(ranges));
    return nfa->CodePoints(negated ? ComplementOf(ranges) : ranges);
  }

  absl::StatusOr<int64_t> Number() {
    int64_t value = 0;
    size_t length = 0;
    while (length < rest_.size() && absl::ascii_isdigit(static_cast<uint8_t>(rest_[length]))) {
      value = std::min(value * 10 + (rest_[length] - '0'), kMaxBound + 1);
      ++length;
    }
    if (length == 0) return Error("expected a number");
    if (value > kMaxBound) return Error(Message("more than ", kMaxBound, " repetitions"));
    rest_.remove_prefix(length);
    return value;
  }

  // A repetition becomes a rule of its own where its bounds would make many copies.
  absl::StatusOr<Fragment> Repeated(Fragment item, Nfa* nfa) {
    while (true) {
      if (Take("*")) {
        item = nfa->Star(item);
      } else if (Take("+")) {
        item = nfa->Plus(item);
      } else if (Take("?")) {
        item = nfa->Optional(item);
      } else if (Take("{")) {
        SkipSpace(false);
        ASSIGN_OR_RETURN(const int64_t min, Number());
        int64_t max = min;
        SkipSpace(false);
        if (Take(",")) {
          SkipSpace(false);
          max = kUnbounded;
          if (!rest_.starts_with("}")) {
            ASSIGN_OR_RETURN(max, Number());
          }
          SkipSpace(false);
        }
        if (!Take("}")) return Error("missing \"}\"");
        if (max < min) return Error("a repetition whose bounds are in the wrong order");
        item = Counted(item, {static_cast<uint32_t>(min), static_cast<uint32_t>(max)}, nfa);
      } else {
        return item;
      }
    }
  }

  // The part of the automaton moves into a rule.
  Fragment Counted(Fragment item, std::pair<uint32_t, uint32_t> bounds, Nfa* nfa) {
    const RuleId body = builder_.Declare("repetition");
    builder_.Define(body, *nfa, item);
    const RuleId counted = builder_.Declare("repetition");
    builder_.DefineCounted(counted, body, bounds.first, bounds.second);
    return nfa->Call(counted);
  }

  std::string_view rest_;
  const size_t size_;
  const TokenLookup& find_token_;
  GrammarBuilder& builder_;
  absl::flat_hash_map<std::string, RuleId> rules_;
  absl::flat_hash_map<RuleId, bool> defined_;
};

}  // namespace

absl::StatusOr<RuleId> ReadGbnf(std::string_view text, const TokenLookup& find_token,
                                GrammarBuilder* builder) {
  return Reader(text, find_token, builder).Read();
}

}  // namespace tessera::grammar
