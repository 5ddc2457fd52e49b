#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/numbers.h"
#include "engine/files/message.h"
#include "engine/grammar/json_text.h"
#include "engine/grammar/regex.h"

namespace tessera::grammar {
namespace {

constexpr std::string_view kNumberBytes = "-.0123456789";
constexpr int64_t kMaxDigits = 400;

// The automaton of a small machine that reads numbers without exponent: `State` is comparable and
// has Read(char) -> optional State, and ends().
template <typename State>
Dfa Explore(const State& start, BuildBudget* budget) {
  Dfa dfa;
  std::map<State, StateId> ids = {{start, 0}};
  std::vector<State> states = {start};
  dfa.states.emplace_back();
  for (size_t i = 0; i < states.size() && budget->Take(8); ++i) {
    const State state = states[i];
    dfa.states[i].accepting = state.ends();
    for (const char c : kNumberBytes) {
      const std::optional<State> next = state.Read(c);
      if (!next) continue;
      const auto [entry, is_new] = ids.try_emplace(*next, static_cast<StateId>(states.size()));
      if (is_new) {
        states.push_back(*next);
        dfa.states.emplace_back();
      }
      const auto byte = static_cast<uint16_t>(static_cast<unsigned char>(c));
      dfa.states[i].symbols.push_back({byte, byte, entry->second});
    }
  }
  Trim(&dfa);
  return dfa;
}

enum class Phase { kStart, kSign, kZero, kWhole, kPoint, kFraction };

// The grammar of numbers; the machines below add what they count.
std::optional<Phase> NextPhase(Phase phase, char c) {
  if (c == '-') return phase == Phase::kStart ? std::optional(Phase::kSign) : std::nullopt;
  if (c == '.') {
    const bool may = phase == Phase::kZero || phase == Phase::kWhole;
    return may ? std::optional(Phase::kPoint) : std::nullopt;
  }
  switch (phase) {
    case Phase::kStart:
    case Phase::kSign:
      return c == '0' ? Phase::kZero : Phase::kWhole;
    case Phase::kZero:
      return std::nullopt;
    case Phase::kWhole:
      return Phase::kWhole;
    case Phase::kPoint:
    case Phase::kFraction:
      break;
  }
  return Phase::kFraction;
}

bool EndsNumber(Phase phase) {
  return phase == Phase::kZero || phase == Phase::kWhole || phase == Phase::kFraction;
}

// Compares the number's magnitude with a bound's, digit by digit.
struct Comparer {
  const Decimal* bound = nullptr;
  Relation relation = Relation::kEqual;
  Phase phase = Phase::kStart;
  bool negative = false;
  int32_t digits = 0;  // of the part that is being read, at most one more than the bound's
  int32_t order = 0;   // of what was read: -1 less, 0 equal, 1 greater

  friend bool operator<(const Comparer& a, const Comparer& b) {
    return std::tie(a.phase, a.negative, a.digits, a.order) <
           std::tie(b.phase, b.negative, b.digits, b.order);
  }

  std::optional<Comparer> Read(char c) const {
    const std::optional<Phase> next = NextPhase(phase, c);
    if (!next) return std::nullopt;
    Comparer out = *this;
    out.phase = *next;
    if (c == '-') {
      out.negative = true;
    } else if (c == '.') {
      out.order = OrderOfWhole();
      out.digits = 0;
    } else if (*next == Phase::kFraction) {
      const bool inside = digits < static_cast<int32_t>(bound->fraction.size());
      out.order = After(c, inside ? bound->fraction[digits] : '0');
      if (inside) ++out.digits;
    } else {
      const auto size = static_cast<int32_t>(bound->whole.size());
      if (digits < size) out.order = After(c, bound->whole[digits]);
      out.digits = std::min(digits + 1, size + 1);
      if (out.digits > size) out.order = 1;
    }
    return out;
  }

  int32_t After(char c, char other) const {
    if (order != 0) return order;
    return c < other ? -1 : (c > other ? 1 : 0);
  }

  int32_t OrderOfWhole() const {
    const auto size = static_cast<int32_t>(bound->whole.size());
    return digits < size ? -1 : (digits > size ? 1 : order);
  }

  bool ends() const {
    if (!EndsNumber(phase)) return false;
    int32_t magnitude = order;
    if (phase == Phase::kFraction) {
      const bool shorter = digits < static_cast<int32_t>(bound->fraction.size());
      if (magnitude == 0 && shorter) magnitude = -1;
    } else {
      magnitude = OrderOfWhole();
      if (magnitude == 0 && !bound->fraction.empty()) magnitude = -1;
    }
    return Holds(Order(magnitude));
  }

  int32_t Order(int32_t magnitude) const {
    if (bound->is_zero()) return negative ? -magnitude : magnitude;
    if (bound->negative) return negative ? -magnitude : 1;
    return negative ? -1 : magnitude;
  }

  bool Holds(int32_t o) const {
    switch (relation) {
      case Relation::kLess:
        return o < 0;
      case Relation::kAtMost:
        return o <= 0;
      case Relation::kEqual:
        return o == 0;
      case Relation::kAtLeast:
        return o >= 0;
      case Relation::kGreater:
        return o > 0;
      case Relation::kDiffers:
        break;
    }
    return o != 0;
  }
};

// The digits so far modulo a factor that has `decimals` of them behind the point.
struct Remainder {
  int64_t factor = 1;
  int32_t decimals = 0;
  bool multiple = true;
  Phase phase = Phase::kStart;
  int64_t rest = 0;
  int32_t read = 0;       // digits behind the point, at most `decimals`
  bool too_fine = false;  // another digit that is not 0 came behind them

  friend bool operator<(const Remainder& a, const Remainder& b) {
    return std::tie(a.phase, a.rest, a.read, a.too_fine) <
           std::tie(b.phase, b.rest, b.read, b.too_fine);
  }

  std::optional<Remainder> Read(char c) const {
    const std::optional<Phase> next = NextPhase(phase, c);
    if (!next) return std::nullopt;
    Remainder out = *this;
    out.phase = *next;
    if (c == '-' || c == '.') return out;
    if (*next == Phase::kFraction && read == decimals) {
      out.too_fine = too_fine || c != '0';
      return out;
    }
    out.rest = (rest * 10 + (c - '0')) % factor;
    if (*next == Phase::kFraction) ++out.read;
    return out;
  }

  bool ends() const {
    if (!EndsNumber(phase)) return false;
    int64_t value = rest;
    for (int32_t i = read; i < decimals; ++i) value = value * 10 % factor;
    return (value == 0 && !too_fine) == multiple;
  }
};

// The expressions here are ours and compile.
Dfa Compiled(std::string_view pattern, BuildBudget* budget) {
  absl::StatusOr<Dfa> dfa = CompileRegex(pattern, RegexMatch::kWhole, budget);
  return dfa.ok() ? *std::move(dfa) : Dfa{.states = std::vector<Dfa::State>(1)};
}

}  // namespace

std::optional<Decimal> ReadDecimal(std::string_view number) {
  Decimal out;
  if (number.starts_with('-')) {
    out.negative = true;
    number.remove_prefix(1);
  }
  int64_t exponent = 0;
  if (const size_t e = number.find_first_of("eE"); e != std::string_view::npos) {
    std::string_view text = number.substr(e + 1);
    if (text.starts_with('+')) text.remove_prefix(1);
    if (!absl::SimpleAtoi(std::string(text), &exponent)) return std::nullopt;
    number = number.substr(0, e);
  }
  const size_t point = std::min(number.find('.'), number.size());
  std::string digits(number.substr(0, point));
  if (point < number.size()) digits.append(number.substr(point + 1));
  if (std::abs(exponent) > kMaxDigits || digits.size() > kMaxDigits) return std::nullopt;
  int64_t whole = static_cast<int64_t>(point) + exponent;
  if (whole < 0) {
    digits.insert(0, static_cast<size_t>(-whole), '0');
    whole = 0;
  }
  if (whole > static_cast<int64_t>(digits.size())) digits.resize(whole, '0');
  out.whole = digits.substr(0, whole);
  out.fraction = digits.substr(whole);
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  if (out.whole.empty()) out.whole = "0";
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  if (out.is_zero()) out.negative = false;
  return out;
}

std::string DecimalText(const Decimal& value) {
  return Message(value.negative ? "-" : "", value.whole, value.fraction.empty() ? "" : ".",
                 value.fraction);
}

Dfa AnyNumber(BuildBudget* budget) {
  return Compiled("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]{1,2})?", budget);
}

Dfa Integers(BuildBudget* budget) { return Compiled("-?(0|[1-9][0-9]*)", budget); }

Dfa Fractions(BuildBudget* budget) { return Compiled("-?(0|[1-9][0-9]*)\\.0*[1-9][0-9]*", budget); }

Dfa NumbersThat(Relation relation, const Decimal& bound, BuildBudget* budget) {
  return Explore(Comparer{.bound = &bound, .relation = relation}, budget);
}

std::optional<Dfa> Multiples(const Decimal& factor, bool multiple, BuildBudget* budget) {
  constexpr int64_t kMaxFactor = 100'000;
  int64_t value = 0;
  if (factor.whole.size() + factor.fraction.size() > 15 ||
      !absl::SimpleAtoi(factor.whole + factor.fraction, &value) || value <= 0 ||
      value > kMaxFactor) {
    return std::nullopt;
  }
  return Explore(Remainder{.factor = value,
                           .decimals = static_cast<int32_t>(factor.fraction.size()),
                           .multiple = multiple},
                 budget);
}

}  // namespace tessera::grammar
