#include "engine/grammar/json_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/grammar/regex.h"

namespace tessera::grammar {
namespace {

constexpr std::string_view kEscapeKinds = "\"\\/bfnrt";
constexpr std::string_view kEscapeValues = "\"\\/\b\f\n\r\t";

Fragment Hex(Nfa* nfa) { return nfa->CodePoints({{{'0', '9'}, {'A', 'F'}, {'a', 'f'}}}); }

Fragment HexDigit(uint32_t value, Nfa* nfa) {
  if (value < 10) return nfa->CodePoints({{{'0' + value, '0' + value}}});
  const uint32_t letter = value - 10;
  return nfa->CodePoints({{{'A' + letter, 'A' + letter}, {'a' + letter, 'a' + letter}}});
}

Fragment HexRange(uint32_t first, uint32_t last, Nfa* nfa) {
  std::vector<Fragment> parts;
  for (uint32_t value = first; value <= last; ++value) parts.push_back(HexDigit(value, nfa));
  return nfa->Alternate(parts);
}

Fragment SurrogatePair(Nfa* nfa) {
  return nfa->Concat({nfa->Literal("\\u"), HexDigit(0xD, nfa), HexRange(0x8, 0xB, nfa), Hex(nfa),
                      Hex(nfa), nfa->Literal("\\u"), HexDigit(0xD, nfa), HexRange(0xC, 0xF, nfa),
                      Hex(nfa), Hex(nfa)});
}

// \uHHHH that is no surrogate.
Fragment BasicEscape(Nfa* nfa) {
  const Fragment below = nfa->Concat({HexRange(0x0, 0xC, nfa), Hex(nfa)});
  const Fragment d = nfa->Concat({HexDigit(0xD, nfa), HexRange(0x0, 0x7, nfa)});
  const Fragment above = nfa->Concat({HexRange(0xE, 0xF, nfa), Hex(nfa)});
  return nfa->Concat({nfa->Literal("\\u"), nfa->Alternate({below, d, above}), Hex(nfa), Hex(nfa)});
}

void AddEscapes(const Dfa& decoded, StateId state, const std::vector<StateId>& copies, Nfa* nfa) {
  const auto add = [&](StateId target, Fragment escape) {
    nfa->AddEmpty(copies[state], escape.begin);
    nfa->AddEmpty(escape.end, copies[target]);
  };
  for (size_t i = 0; i < kEscapeKinds.size(); ++i) {
    const StateId target = decoded.Next(state, static_cast<uint8_t>(kEscapeValues[i]));
    if (target >= 0) add(target, nfa->Literal(std::string("\\") + kEscapeKinds[i]));
  }
  for (uint32_t c = 0; c < 0x20; ++c) {
    const StateId target = decoded.Next(state, static_cast<int32_t>(c));
    if (target < 0) continue;
    add(target, nfa->Concat({nfa->Literal("\\u00"), HexDigit(c / 16, nfa), HexDigit(c % 16, nfa)}));
  }
}

}  // namespace

Fragment JsonCharacter(Nfa* nfa) {
  const Fragment raw = nfa->CodePoints({{{0x20, 0x21}, {0x23, 0x5B}, {0x5D, kMaxCodePoint}}});
  std::vector<Fragment> parts = {raw, SurrogatePair(nfa), BasicEscape(nfa)};
  for (const char kind : kEscapeKinds) parts.push_back(nfa->Literal(std::string("\\") + kind));
  return nfa->Alternate(parts);
}

Dfa JsonStrings(const Dfa& decoded, BuildBudget* budget) {
  Nfa nfa(budget);
  const Fragment open = nfa.Literal("\"");
  const Fragment close = nfa.Literal("\"");
  std::vector<StateId> copies;
  for (size_t i = 0; i < decoded.states.size(); ++i) copies.push_back(nfa.AddState());
  for (size_t i = 0; i < decoded.states.size() && !budget->spent(); ++i) {
    const Dfa::State& state = decoded.states[i];
    for (const Dfa::SymbolEdge& edge : state.symbols) {
      constexpr std::pair<int32_t, int32_t> kRaw[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0xFF}};
      for (const auto& [first, last] : kRaw) {
        const int32_t low = std::max<int32_t>(edge.first, first);
        const int32_t high = std::min<int32_t>(edge.last, last);
        if (low <= high) nfa.AddSymbols(copies[i], low, high, copies[edge.target]);
      }
    }
    AddEscapes(decoded, static_cast<StateId>(i), copies, &nfa);
    if (state.accepting) nfa.AddEmpty(copies[i], close.begin);
  }
  nfa.AddEmpty(open.end, copies[0]);
  return nfa.Determinise({open.begin, close.end});
}

Dfa AnyText(BuildBudget* budget) { return TextsOfLength(0, -1, budget); }

Dfa TextsOfLength(int64_t min, int64_t max, BuildBudget* budget) {
  Nfa nfa(budget);
  const auto any = [&] { return nfa.CodePoints({{{0, kMaxCodePoint}}}); };
  return nfa.Determinise(nfa.Repeat(any, min, max));
}

const char* FormatPattern(std::string_view format) {
  // RFC 3339, RFC 5321, RFC 1123, RFC 3986, RFC 9562, RFC 6901, in part or in whole.
#define DATE                                                                                \
  "(?:(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]" \
  "|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])))|(?:(?:[0-9]{2}(?:0[48]|[2468][048]|[13579]" \
  "[26])|(?:[02468][048]|[13579][26])00)-02-29))"
#define TIME                                                                              \
  "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:[Zz]|[+-](?:[01][0-9]|" \
  "2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define IPV4 BYTE "\\." BYTE "\\." BYTE "\\." BYTE
#define H "[0-9A-Fa-f]{1,4}"
#define PCHAR "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define URI_TAIL "(?:\\?(?:" PCHAR "|[/?])*)?(?:#(?:" PCHAR "|[/?])*)?"
#define AUTHORITY                                                                         \
  "(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?(?:[A-Za-z0-9._~!$&'()*+,;=-]|%" \
  "[0-9A-Fa-f]{2})*(?::[0-9]*)?"
#define PATH "(?:/" PCHAR "*)*"
  static constexpr std::pair<std::string_view, const char*> kFormats[] = {
      {"date", DATE},
      {"time", TIME},
      {"date-time", DATE "[Tt]" TIME},
      {"duration",
       "P(?:[0-9]+W|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)(?:T(?:[0-9]+H"
       "(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))?|T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)"
       "?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S))"},
      {"email", "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@" LABEL
                "(?:\\." LABEL ")*"},
      {"idn-email", "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@" LABEL
                    "(?:\\." LABEL ")*"},
      {"hostname", LABEL "(?:\\." LABEL "){0,3}"},
      {"idn-hostname", LABEL "(?:\\." LABEL "){0,3}"},
      {"ipv4", IPV4},
      {"ipv6", "(?:(?:" H ":){7}" H "|(?:" H ":){1,7}:|(?:" H ":){1,6}:" H "|(?:" H ":){1,5}(?::" H
               "){1,2}|(?:" H ":){1,4}(?::" H "){1,3}|(?:" H ":){1,3}(?::" H "){1,4}|(?:" H
               ":){1,2}(?::" H "){1,5}|" H ":(?::" H "){1,6}|:(?:(?::" H "){1,7}|:)|(?:" H
               ":){6}" IPV4 "|::(?:" H ":){0,5}" IPV4 ")"},
      {"uri", "[A-Za-z][A-Za-z0-9+.-]*:(?://" AUTHORITY PATH "|/(?:" PCHAR "+" PATH ")?|" PCHAR
              "+" PATH ")" URI_TAIL},
      {"iri", "[A-Za-z][A-Za-z0-9+.-]*:(?://" AUTHORITY PATH "|/(?:" PCHAR "+" PATH ")?|" PCHAR
              "+" PATH ")" URI_TAIL},
      {"uri-reference", "(?:[A-Za-z][A-Za-z0-9+.-]*:)?//" AUTHORITY PATH URI_TAIL "|/(?:" PCHAR
                        "+" PATH ")?" URI_TAIL "|[A-Za-z0-9._~-]*" URI_TAIL},
      {"iri-reference", "(?:[A-Za-z][A-Za-z0-9+.-]*:)?//" AUTHORITY PATH URI_TAIL "|/(?:" PCHAR
                        "+" PATH ")?" URI_TAIL "|[A-Za-z0-9._~-]*" URI_TAIL},
      {"uuid", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"},
      {"json-pointer", "(?:/(?:[^~/]|~[01])*)*"},
      {"relative-json-pointer", "(?:0|[1-9][0-9]*)(?:#|(?:/(?:[^~/]|~[01])*)*)"},
  };
#undef DATE
#undef TIME
#undef LABEL
#undef BYTE
#undef IPV4
#undef H
#undef PCHAR
#undef URI_TAIL
#undef AUTHORITY
#undef PATH
  for (const auto& [name, pattern] : kFormats) {
    if (name == format) return pattern;
  }
  return nullptr;
}

}  // namespace tessera::grammar
