#include "engine/grammar/regex.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/files/message.h"
#include "engine/text/utf8.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

// What ^ and $ consume: the text is read with a mark on either side.
constexpr int32_t kBegin = kByteSymbols;
constexpr int32_t kEnd = kByteSymbols + 1;
constexpr int64_t kMaxRepeat = 1'000'000;

using Ranges = std::vector<CodePointRange>;

struct Node {
  enum class Kind { kClass, kMark, kConcat, kAlternate, kRepeat };
  Kind kind = Kind::kConcat;
  Ranges ranges;     // kClass
  int32_t mark = 0;  // kMark
  int64_t min = 0;   // kRepeat
  int64_t max = 0;   // < 0: no bound
  std::vector<Node> children;
};

Ranges Digits() { return {{'0', '9'}}; }
Ranges Words() { return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}; }
Ranges Spaces() {
  return {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
          {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
}

class Parser {
 public:
  explicit Parser(std::string_view pattern) : rest_(pattern), size_(pattern.size()) {}

  absl::StatusOr<Node> Parse() {
    ASSIGN_OR_RETURN(Node node, Alternation(0));
    if (!rest_.empty()) return Error("unbalanced \")\"");
    return node;
  }

 private:
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(Message("is no regular expression that works here: at byte ",
                                              size_ - rest_.size(), ": ", what));
  }

  bool Take(std::string_view prefix) {
    if (!rest_.starts_with(prefix)) return false;
    rest_.remove_prefix(prefix.size());
    return true;
  }

  absl::StatusOr<Node> Alternation(int32_t depth) {
    if (depth > kMaxRegexDepth) return Error("groups are nested too deeply");
    Node out{.kind = Node::Kind::kAlternate};
    do {
      ASSIGN_OR_RETURN(Node branch, Sequence(depth));
      out.children.push_back(std::move(branch));
    } while (Take("|"));
    return out;
  }

  absl::StatusOr<Node> Sequence(int32_t depth) {
    Node out;
    while (!rest_.empty() && rest_[0] != '|' && rest_[0] != ')') {
      ASSIGN_OR_RETURN(Node atom, Atom(depth));
      RETURN_IF_ERROR(Quantify(&atom));
      out.children.push_back(std::move(atom));
    }
    return out;
  }

  absl::StatusOr<Node> Atom(int32_t depth) {
    if (Take("(")) return Group(depth);
    if (Take("[")) return Class();
    if (Take("^")) return Node{.kind = Node::Kind::kMark, .mark = kBegin};
    if (Take("$")) return Node{.kind = Node::Kind::kMark, .mark = kEnd};
    if (Take(".")) {
      return ClassNode(ComplementOf({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}));
    }
    if (Take("\\")) return Escape();
    if (std::string_view("*+?").find(rest_[0]) != std::string_view::npos) {
      return Error("nothing to repeat");
    }
    uint32_t code_point = 0;
    if (!TakeCodePoint(&rest_, &code_point)) return Error("not valid UTF-8");
    return ClassNode({{code_point, code_point}});
  }

  static Node ClassNode(Ranges ranges) {
    return Node{.kind = Node::Kind::kClass, .ranges = std::move(ranges)};
  }

  absl::StatusOr<Node> Group(int32_t depth) {
    if (Take("?")) {
      if (Take("=") || Take("!") || Take("<=") || Take("<!")) {
        return Error("look-ahead and look-behind cannot be enforced");
      }
      if (Take("<")) {
        const size_t end = rest_.find('>');
        if (end == std::string_view::npos) return Error("unfinished name of a group");
        rest_.remove_prefix(end + 1);
      } else if (!Take(":")) {
        return Error("flags of groups are not supported");
      }
    }
    ASSIGN_OR_RETURN(Node node, Alternation(depth + 1));
    if (!Take(")")) return Error("missing \")\"");
    return node;
  }

  std::optional<int64_t> Number() {
    size_t length = 0;
    int64_t value = 0;
    while (length < rest_.size() && absl::ascii_isdigit(static_cast<uint8_t>(rest_[length]))) {
      value = std::min(value * 10 + (rest_[length] - '0'), kMaxRepeat + 1);
      ++length;
    }
    if (length == 0) return std::nullopt;
    rest_.remove_prefix(length);
    return value;
  }

  // "{" without bounds behind it stands for itself.
  std::optional<std::pair<int64_t, int64_t>> Bounds() {
    const std::string_view before = rest_;
    if (Take("{")) {
      if (const auto min = Number()) {
        if (Take("}")) return std::pair(*min, *min);
        if (Take(",")) {
          const auto max = Number();
          if (Take("}")) return std::pair(*min, max.value_or(-1));
        }
      }
    }
    rest_ = before;
    return std::nullopt;
  }

  absl::Status Quantify(Node* atom) {
    for (bool first = true;; first = false) {
      std::optional<std::pair<int64_t, int64_t>> bounds;
      if (Take("*")) {
        bounds = {0, -1};
      } else if (Take("+")) {
        bounds = {1, -1};
      } else if (Take("?")) {
        bounds = {0, 1};
      } else {
        bounds = Bounds();
      }
      if (!bounds) return absl::OkStatus();
      if (!first) return Error("nothing to repeat");
      const auto [min, max] = *bounds;
      if (max >= 0 && max < min) return Error("a repetition whose bounds are in the wrong order");
      if (std::max(min, max) > kMaxRepeat) return Error("a repetition that is too long");
      Node repeat{.kind = Node::Kind::kRepeat, .min = min, .max = max};
      repeat.children.push_back(std::move(*atom));
      *atom = std::move(repeat);
      Take("?");  // lazy
    }
  }

  // The set of \d, \w, \s or a complement; nothing: the escape stands for one character.
  std::optional<Ranges> SetEscape() {
    if (rest_.empty()) return std::nullopt;
    const char c = rest_[0];
    Ranges set;
    switch (absl::ascii_tolower(static_cast<uint8_t>(c))) {
      case 'd':
        set = Digits();
        break;
      case 'w':
        set = Words();
        break;
      case 's':
        set = Spaces();
        break;
      default:
        return std::nullopt;
    }
    rest_.remove_prefix(1);
    return absl::ascii_isupper(static_cast<uint8_t>(c)) ? ComplementOf(set) : set;
  }

  absl::StatusOr<uint32_t> UnicodeEscape() {
    uint32_t value = 0;
    if (Take("{")) {
      const size_t end = rest_.find('}');
      if (end == std::string_view::npos || end == 0 || end > 6) return Error("bad \\u escape");
      if (!TakeHex(&rest_, static_cast<int32_t>(end), &value) || !Take("}")) {
        return Error("bad \\u escape");
      }
      if (value > kMaxCodePoint) return Error("no such code point");
      return value;
    }
    if (!TakeHex(&rest_, 4, &value)) return Error("bad \\u escape");
    uint32_t low = 0;
    const std::string_view before = rest_;
    if (value >= 0xD800 && value < 0xDC00 && Take("\\u") && TakeHex(&rest_, 4, &low) &&
        low >= 0xDC00 && low < 0xE000) {
      return 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
    }
    rest_ = before;
    return value;
  }

  absl::StatusOr<uint32_t> CharacterEscape() {
    uint32_t c = 0;
    if (!TakeCodePoint(&rest_, &c)) return Error("unfinished escape");
    constexpr std::string_view kNames = "tnvfr";
    constexpr std::string_view kValues = "\t\n\v\f\r";
    const size_t known = c < 0x80 ? kNames.find(static_cast<char>(c)) : std::string_view::npos;
    if (known != std::string_view::npos) return static_cast<uint8_t>(kValues[known]);
    if (c == 'u') return UnicodeEscape();
    if (c == 'x') {
      if (!TakeHex(&rest_, 2, &c)) return Error("bad \\x escape");
      return c;
    }
    if (c == 'c') {
      if (rest_.empty() || !absl::ascii_isalpha(static_cast<uint8_t>(rest_[0]))) {
        return Error("bad \\c escape");
      }
      const uint32_t value = static_cast<uint8_t>(rest_[0]) % 32;
      rest_.remove_prefix(1);
      return value;
    }
    if (c == '0' && (rest_.empty() || !absl::ascii_isdigit(static_cast<uint8_t>(rest_[0])))) {
      return 0;
    }
    if (c < 0x80 && absl::ascii_isalnum(static_cast<uint8_t>(c))) {
      return Error(
          Message("the escape \"\\", std::string(1, static_cast<char>(c)), "\" is not supported"));
    }
    return c;
  }

  absl::StatusOr<Node> Escape() {
    if (auto set = SetEscape()) return ClassNode(*std::move(set));
    ASSIGN_OR_RETURN(const uint32_t c, CharacterEscape());
    return ClassNode({{c, c}});
  }

  // One member of a class: a set, or a character in `*single`.
  absl::StatusOr<Ranges> ClassMember(std::optional<uint32_t>* single) {
    uint32_t c = 0;
    if (Take("\\")) {
      if (auto set = SetEscape()) return *std::move(set);
      if (Take("b")) {
        c = '\b';
      } else {
        ASSIGN_OR_RETURN(c, CharacterEscape());
      }
    } else if (!TakeCodePoint(&rest_, &c)) {
      return Error("not valid UTF-8");
    }
    *single = c;
    return Ranges{{c, c}};
  }

  absl::StatusOr<Node> Class() {
    const bool negated = Take("^");
    Ranges all;
    while (!Take("]")) {
      if (rest_.empty()) return Error("missing \"]\"");
      std::optional<uint32_t> first;
      ASSIGN_OR_RETURN(Ranges member, ClassMember(&first));
      if (first && rest_.size() > 1 && rest_[0] == '-' && rest_[1] != ']') {
        rest_.remove_prefix(1);
        std::optional<uint32_t> last;
        ASSIGN_OR_RETURN(const Ranges other, ClassMember(&last));
        if (!last) return Error("a range needs a character on both sides");
        if (*last < *first) return Error("a range whose ends are in the wrong order");
        member = {{*first, *last}};
      }
      all.insert(all.end(), member.begin(), member.end());
    }
    all = Normalised(std::move(all));
    return ClassNode(negated ? ComplementOf(all) : all);
  }

  std::string_view rest_;
  const size_t size_;
};

Fragment Build(const Node& node, Nfa* nfa) {
  switch (node.kind) {
    case Node::Kind::kClass:
      return nfa->CodePoints(node.ranges);
    case Node::Kind::kMark:
      return nfa->Symbols(node.mark, node.mark);
    case Node::Kind::kRepeat:
      return nfa->Repeat([&] { return Build(node.children[0], nfa); }, node.min, node.max);
    case Node::Kind::kConcat:
    case Node::Kind::kAlternate:
      break;
  }
  std::vector<Fragment> parts;
  for (const Node& child : node.children) {
    if (nfa->budget()->spent()) break;
    parts.push_back(Build(child, nfa));
  }
  return node.kind == Node::Kind::kConcat ? nfa->Concat(parts) : nfa->Alternate(parts);
}

// The automaton of the text between the marks.
Dfa WithoutMarks(const Dfa& marked) {
  Dfa out;
  const StateId start = marked.Next(0, kBegin);
  if (start < 0) {
    out.states.emplace_back();
    return out;
  }
  for (const Dfa::State& state : marked.states) {
    Dfa::State copy;
    for (const Dfa::SymbolEdge& edge : state.symbols) {
      if (edge.first >= kByteSymbols) continue;
      copy.symbols.push_back(
          {edge.first, std::min<uint16_t>(edge.last, kByteSymbols - 1), edge.target + 1});
    }
    out.states.push_back(std::move(copy));
  }
  for (size_t i = 0; i < marked.states.size(); ++i) {
    const StateId end = marked.Next(static_cast<StateId>(i), kEnd);
    out.states[i].accepting = end >= 0 && marked.states[end].accepting;
  }
  Dfa::State first = out.states[start];
  out.states.insert(out.states.begin(), std::move(first));
  Trim(&out);
  return out;
}

}  // namespace

bool TakeCodePoint(std::string_view* text, uint32_t* code_point) {
  if (text->empty()) return false;
  const Utf8Unit unit = NextUtf8Unit(*text);
  if (unit.kind != Utf8Unit::Kind::kCharacter) return false;
  *code_point = DecodeUtf8Character(text->substr(0, unit.length));
  text->remove_prefix(unit.length);
  return true;
}

bool TakeHex(std::string_view* text, int32_t digits, uint32_t* value) {
  if (text->size() < static_cast<size_t>(digits)) return false;
  uint32_t out = 0;
  for (int32_t i = 0; i < digits; ++i) {
    const auto c = static_cast<uint8_t>((*text)[i]);
    if (!absl::ascii_isxdigit(c)) return false;
    const uint32_t digit = absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10;
    out = out * 16 + digit;
  }
  text->remove_prefix(digits);
  *value = out;
  return true;
}

std::vector<CodePointRange> Normalised(std::vector<CodePointRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.first < b.first; });
  std::vector<CodePointRange> out;
  for (const CodePointRange& range : ranges) {
    if (!out.empty() && range.first <= out.back().last + 1) {
      out.back().last = std::max(out.back().last, range.last);
    } else {
      out.push_back(range);
    }
  }
  return out;
}

std::vector<CodePointRange> ComplementOf(const std::vector<CodePointRange>& ranges) {
  std::vector<CodePointRange> out;
  uint32_t next = 0;
  for (const CodePointRange& range : ranges) {
    if (next < range.first) out.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kMaxCodePoint) out.push_back({next, kMaxCodePoint});
  return out;
}

absl::StatusOr<Dfa> CompileRegex(std::string_view pattern, RegexMatch match, BuildBudget* budget) {
  ASSIGN_OR_RETURN(const Node node, Parser(pattern).Parse());
  Nfa nfa(budget);
  const auto mark = [&](int32_t symbol) { return nfa.Symbols(symbol, symbol); };
  const auto around = [&](int32_t symbol) {
    if (match == RegexMatch::kWhole) return nfa.Optional(mark(symbol));
    const Fragment any = nfa.CodePoints({{{0, kMaxCodePoint}}});
    return nfa.Star(nfa.Alternate({any, mark(kBegin), mark(kEnd)}));
  };
  const Fragment before = around(kBegin);
  const Fragment middle = Build(node, &nfa);
  const Fragment after = around(kEnd);
  return WithoutMarks(nfa.Determinise(nfa.Concat({before, middle, after})));
}

}  // namespace tessera::grammar
