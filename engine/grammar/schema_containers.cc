// Arrays and objects.
#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "engine/files/message.h"
#include "engine/grammar/json_text.h"
#include "engine/grammar/regex.h"
#include "engine/grammar/schema_compiler.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

using Kind = JsonNode::Kind;

constexpr int64_t kMaxUnrolled = 64;  // sizes that are counted in an automaton's states
constexpr size_t kMaxPrefix = 2000;
constexpr size_t kMaxPatterns = 4;  // of patternProperties that apply to one object

uint32_t CountOf(int64_t bound) { return bound < 0 ? kUnbounded : static_cast<uint32_t>(bound); }

}  // namespace

absl::Status SchemaCompiler::ReadContains(const JsonNode* schema, ArrayShape* shape) const {
  const JsonNode* contains = document_.Keyword(schema, "contains");
  if (contains == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(SizeBounds times, Bounds({schema}, "minContains", "maxContains"));
  if (document_.Keyword(schema, "minContains") == nullptr) times.min = 1;
  if (times.min == 0 && times.max < 0) return absl::OkStatus();
  if (!shape->special.empty()) {
    return document_.Refusal(schema, "contains", "only one can be enforced");
  }
  shape->special.push_back({contains, false});
  shape->times = times;
  return absl::OkStatus();
}

absl::StatusOr<SchemaCompiler::ArrayShape> SchemaCompiler::ReadArray(const Schemas& schemas) const {
  ArrayShape shape;
  ASSIGN_OR_RETURN(shape.sizes, Bounds(schemas, "minItems", "maxItems"));
  const bool may_be_long = shape.sizes.max < 0 || shape.sizes.max > 1;
  for (const JsonNode* schema : schemas) {
    const JsonNode* unique = document_.Keyword(schema, "uniqueItems");
    if (unique != nullptr && !unique->is(Kind::kFalse) && may_be_long) {
      return document_.Refusal(schema, "uniqueItems", "this keyword is not supported");
    }
    if (const JsonNode* prefix = document_.Keyword(schema, "prefixItems")) {
      shape.num_prefix = std::max(shape.num_prefix, prefix->items.size());
    }
    const JsonNode* items = document_.Keyword(schema, "items");
    if (items != nullptr && items->is(Kind::kArray)) {
      return document_.Refusal(schema, "items", "must be a schema; lists are \"prefixItems\"");
    }
    if (items != nullptr) shape.rest.push_back({items, false});
    RETURN_IF_ERROR(ReadContains(schema, &shape));
  }
  if (shape.num_prefix > kMaxPrefix) {
    return document_.Refusal(schemas[0], "prefixItems", "has too many entries");
  }
  const bool is_bounded = shape.num_prefix > 0 || shape.sizes.min > 0 || shape.sizes.max >= 0;
  if (!shape.special.empty() &&
      (is_bounded || std::max(shape.times.min, shape.times.max) > kMaxUnrolled)) {
    return document_.Refusal(schemas[0], "contains",
                             "not together with prefixItems, minItems or maxItems");
  }
  return shape;
}

// What stands at a place within the prefix.
absl::StatusOr<RuleId> SchemaCompiler::PrefixItem(const Schemas& schemas, size_t place) {
  Claims claims;
  for (const JsonNode* schema : schemas) {
    const JsonNode* prefix = document_.Keyword(schema, "prefixItems");
    const JsonNode* items = document_.Keyword(schema, "items");
    if (prefix != nullptr && place < prefix->items.size()) {
      claims.push_back({prefix->items[place], false});
    } else if (items != nullptr) {
      claims.push_back({items, false});
    }
  }
  return ValuesOf(claims);
}

// The rule of one item or more behind others, each with its comma.
RuleId SchemaCompiler::MoreItems(RuleId item, SizeBounds times) {
  const RuleId next = builder_.Declare("next item");
  Nfa one(budget_);
  const Fragment separator = Between(',', &one);
  const Fragment whole = one.Concat(separator, one.Call(item));
  builder_.Define(next, std::move(one), whole);
  const RuleId more = builder_.Declare("more items");
  builder_.DefineCounted(more, next, CountOf(std::max<int64_t>(times.min, 1)), CountOf(times.max));
  return more;
}

absl::Status SchemaCompiler::DefineArray(RuleId rule, const Schemas& schemas) {
  ASSIGN_OR_RETURN(const ArrayShape shape, ReadArray(schemas));
  if (!shape.special.empty()) return DefineContaining(rule, shape);
  const SizeBounds sizes = shape.sizes;
  Nfa nfa(budget_);
  Fragment out = nfa.Concat(nfa.Literal("["), Space(&nfa));
  const StateId close = nfa.AddState();
  const auto may_end = [&](int64_t size) {
    if (size >= sizes.min && (sizes.max < 0 || size <= sizes.max)) nfa.AddEmpty(out.end, close);
  };
  may_end(0);
  for (size_t i = 0; i < shape.num_prefix; ++i) {
    ASSIGN_OR_RETURN(const RuleId item, PrefixItem(schemas, i));
    if (i > 0) out = nfa.Concat(out, Between(',', &nfa));
    out = nfa.Concat(out, nfa.Call(item));
    may_end(static_cast<int64_t>(i) + 1);
  }
  auto done = static_cast<int64_t>(shape.num_prefix);
  if (sizes.max < 0 || sizes.max > done) {
    ASSIGN_OR_RETURN(const RuleId item, ValuesOf(shape.rest));
    // The first item has no comma in front of it.
    if (done == 0) {
      out = nfa.Concat(out, nfa.Call(item));
      may_end(1);
      done = 1;
    }
    const SizeBounds times{sizes.min - done, sizes.max < 0 ? -1 : sizes.max - done};
    if (times.max != 0 && (sizes.max < 0 || sizes.max >= sizes.min)) {
      nfa.AddEmpty(nfa.Concat(out, nfa.Call(MoreItems(item, times))).end, close);
    }
  }
  const Fragment end = nfa.Concat(Space(&nfa), nfa.Literal("]"));
  nfa.AddEmpty(close, end.begin);
  builder_.Define(rule, std::move(nfa), {out.begin, end.end});
  return absl::OkStatus();
}

// Any items, and between them so many special ones. States count these, as far as it matters. With
// a most the others are not special.
absl::Status SchemaCompiler::DefineContaining(RuleId rule, const ArrayShape& shape) {
  const auto [min, max] = shape.times;
  Claims special = shape.special;
  Claims others = shape.rest;
  special.insert(special.end(), shape.rest.begin(), shape.rest.end());
  if (max >= 0) others.push_back({shape.special[0].schema, true});
  ASSIGN_OR_RETURN(const RuleId item, ValuesOf(others));
  ASSIGN_OR_RETURN(const RuleId wanted, ValuesOf(special));
  Nfa nfa(budget_);
  const Fragment open = nfa.Concat(nfa.Literal("["), Space(&nfa));
  const Fragment close = nfa.Concat(Space(&nfa), nfa.Literal("]"));
  const auto add = [&](RuleId values, StateId from, StateId to, bool first) {
    const Fragment value = nfa.Call(values);
    const Fragment whole = first ? value : nfa.Concat(Between(',', &nfa), value);
    nfa.AddEmpty(from, whole.begin);
    nfa.AddEmpty(whole.end, to);
  };
  const int64_t most = max < 0 ? min : max;
  std::vector<StateId> counted;  // behind an item
  for (int64_t i = 0; i <= most; ++i) counted.push_back(nfa.AddState());
  add(item, open.end, counted[0], true);
  if (most > 0) add(wanted, open.end, counted[1], true);
  if (min == 0) nfa.AddEmpty(open.end, close.begin);
  for (int64_t i = 0; i <= most; ++i) {
    add(item, counted[i], counted[i], false);
    if (i < most) add(wanted, counted[i], counted[i + 1], false);
    if (i >= min) nfa.AddEmpty(counted[i], close.begin);
  }
  builder_.Define(rule, std::move(nfa), {open.begin, close.end});
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Dfa>> SchemaCompiler::MemberNames(const Schemas& schemas) {
  Claims claims;
  for (const JsonNode* schema : schemas) {
    if (const JsonNode* names = document_.Keyword(schema, "propertyNames")) {
      claims.push_back({names, false});
    }
  }
  if (claims.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::vector<ValueShape> shapes, ShapesOf(claims));
  Nfa nfa(budget_);
  std::vector<Fragment> parts;
  for (const ValueShape& shape : shapes) {
    if ((shape.types & kStringType) == 0) continue;
    ASSIGN_OR_RETURN(const std::optional<Dfa> texts,
                     Texts(Relevant(kStringType, shape.schemas), true));
    if (!texts) return std::nullopt;
    parts.push_back(nfa.Copy(*texts));
  }
  return nfa.Determinise(nfa.Alternate(parts));
}

absl::StatusOr<const Dfa*> SchemaCompiler::PatternDfa(const JsonNode* schema,
                                                      const std::string& pattern) {
  const auto known = patterns_.find(pattern);
  if (known != patterns_.end()) return &known->second;
  absl::StatusOr<Dfa> dfa = CompileRegex(pattern, RegexMatch::kSearch, budget_);
  if (!dfa.ok()) {
    return document_.Refusal(schema, "patternProperties", std::string(dfa.status().message()));
  }
  return &patterns_.emplace(pattern, *std::move(dfa)).first->second;
}

absl::StatusOr<std::vector<SchemaCompiler::Pattern>> SchemaCompiler::Patterns(
    const Schemas& schemas) {
  std::vector<Pattern> out;
  for (const JsonNode* schema : schemas) {
    const JsonNode* patterns = document_.Keyword(schema, "patternProperties");
    if (patterns == nullptr) continue;
    for (const auto& [text, value] : patterns->members) {
      const bool is_known = std::any_of(
          out.begin(), out.end(), [&text = text](const Pattern& p) { return p.text == text; });
      if (is_known) continue;
      ASSIGN_OR_RETURN(const Dfa* dfa, PatternDfa(schema, text));
      out.push_back({text, *dfa});
    }
    if (out.size() > kMaxPatterns) {
      return document_.Refusal(schema, "patternProperties",
                               Message("more than ", kMaxPatterns, " patterns"));
    }
  }
  return out;
}

absl::StatusOr<std::vector<SchemaCompiler::DeclaredMember>> SchemaCompiler::Declared(
    const Schemas& schemas, const std::optional<Dfa>& names) {
  std::vector<DeclaredMember> out;
  absl::flat_hash_map<std::string, size_t> places;
  const auto place = [&](const std::string& name) {
    const auto [entry, is_new] = places.try_emplace(name, out.size());
    if (is_new) out.push_back({.name = name});
    return entry->second;
  };
  for (const JsonNode* schema : schemas) {
    const JsonNode* properties = document_.Keyword(schema, "properties");
    if (properties == nullptr) continue;
    if (!properties->is(Kind::kObject)) {
      return document_.Refusal(schema, "properties", "must be an object");
    }
    for (const auto& [name, value] : properties->members) place(name);
  }
  for (const JsonNode* schema : schemas) {
    const JsonNode* required = document_.Keyword(schema, "required");
    if (required == nullptr) continue;
    for (const JsonNode* name : required->items) {
      if (!name->is(Kind::kString)) {
        return document_.Refusal(schema, "required", "must be an array of names");
      }
      out[place(name->text)].required = true;
    }
  }
  for (DeclaredMember& member : out) {
    Claims claims;
    for (const JsonNode* schema : schemas) {
      const JsonNode* properties = document_.Keyword(schema, "properties");
      const JsonNode* own = properties == nullptr ? nullptr : properties->Find(member.name);
      bool covered = own != nullptr;
      if (own != nullptr) claims.push_back({own, false});
      if (const JsonNode* patterns = document_.Keyword(schema, "patternProperties")) {
        for (const auto& [text, value] : patterns->members) {
          ASSIGN_OR_RETURN(const Dfa* dfa, PatternDfa(schema, text));
          if (!dfa->Accepts(member.name)) continue;
          covered = true;
          claims.push_back({value, false});
        }
      }
      const JsonNode* additional = document_.Keyword(schema, "additionalProperties");
      if (!covered && additional != nullptr) claims.push_back({additional, false});
    }
    const bool is_false = std::any_of(claims.begin(), claims.end(), [](const Claim& claim) {
      return claim.schema->is(Kind::kFalse);
    });
    if (is_false || (names && !names->Accepts(member.name))) continue;
    ASSIGN_OR_RETURN(member.values, ValuesOf(claims));
  }
  return out;
}

// Names that are not declared, by the patterns that they match: each set of patterns makes other
// claims on the value.
absl::StatusOr<std::vector<SchemaCompiler::ExtraMember>> SchemaCompiler::Extras(
    const Schemas& schemas, const std::vector<DeclaredMember>& declared,
    const std::optional<Dfa>& names) {
  ASSIGN_OR_RETURN(const std::vector<Pattern> patterns, Patterns(schemas));
  std::vector<std::string_view> known;
  for (const DeclaredMember& member : declared) known.push_back(member.name);
  std::optional<Dfa> others;  // made when it is needed
  std::vector<ExtraMember> out;
  for (size_t set = 0; set < (size_t{1} << patterns.size()); ++set) {
    const auto matches = [&](std::string_view text) {
      for (size_t i = 0; i < patterns.size(); ++i) {
        if (patterns[i].text == text) return (set >> i & 1) != 0;
      }
      return false;
    };
    Claims claims;
    for (const JsonNode* schema : schemas) {
      bool covered = false;
      if (const JsonNode* list = document_.Keyword(schema, "patternProperties")) {
        for (const auto& [text, value] : list->members) {
          if (!matches(text)) continue;
          covered = true;
          claims.push_back({value, false});
        }
      }
      const JsonNode* additional = document_.Keyword(schema, "additionalProperties");
      if (!covered && additional != nullptr) claims.push_back({additional, false});
    }
    const bool is_false = std::any_of(claims.begin(), claims.end(), [](const Claim& claim) {
      return claim.schema->is(Kind::kFalse);
    });
    if (is_false) continue;
    if (!others) {
      others = AnyText(budget_);
      if (names) others = Intersect(*others, *names, budget_);
      if (!known.empty()) {
        others = Intersect(*others, Complement(LiteralSet(known, budget_), budget_), budget_);
      }
    }
    Dfa fitting = *others;
    for (size_t i = 0; i < patterns.size(); ++i) {
      const Dfa& dfa = patterns[i].dfa;
      fitting = Intersect(fitting, (set >> i & 1) != 0 ? dfa : Complement(dfa, budget_), budget_);
    }
    if (fitting.IsEmpty()) continue;
    ASSIGN_OR_RETURN(const RuleId values, ValuesOf(claims));
    out.push_back({.names = JsonStrings(fitting, budget_), .values = values});
  }
  return out;
}

absl::Status SchemaCompiler::DefineObject(RuleId rule, const Schemas& schemas) {
  ASSIGN_OR_RETURN(SizeBounds sizes, Bounds(schemas, "minProperties", "maxProperties"));
  ASSIGN_OR_RETURN(const std::optional<Dfa> names, MemberNames(schemas));
  ASSIGN_OR_RETURN(const std::vector<DeclaredMember> declared, Declared(schemas, names));
  ASSIGN_OR_RETURN(const std::vector<ExtraMember> extras, Extras(schemas, declared, names));
  const auto num_required = std::count_if(declared.begin(), declared.end(),
                                          [](const DeclaredMember& m) { return m.required; });
  const auto num_declared = static_cast<int64_t>(declared.size());
  if (sizes.min <= num_required) sizes.min = 0;
  if (extras.empty() && sizes.max >= num_declared) sizes.max = -1;
  // Names of other members may repeat, which makes one member: only the first of them counts.
  if (sizes.min > num_declared + 1 && !extras.empty()) {
    return document_.Refusal(schemas[0], "minProperties",
                             "cannot be enforced for members that are not declared");
  }
  if (std::max(sizes.min, sizes.max) > kMaxUnrolled) {
    return document_.Refusal(schemas[0], sizes.min > sizes.max ? "minProperties" : "maxProperties",
                             Message("more than ", kMaxUnrolled, " cannot be enforced"));
  }
  return DefineMembers(rule, declared, extras, sizes);
}

// States are (members passed, members written); the latter only as far as it matters.
absl::Status SchemaCompiler::DefineMembers(RuleId rule, const std::vector<DeclaredMember>& declared,
                                           const std::vector<ExtraMember>& extras,
                                           SizeBounds sizes) {
  const int64_t most = std::max<int64_t>({1, sizes.min, sizes.max + 1});
  Nfa nfa(budget_);
  const Fragment open = nfa.Concat(nfa.Literal("{"), Space(&nfa));
  const Fragment close = nfa.Concat(Space(&nfa), nfa.Literal("}"));
  const auto row = [&] {
    std::vector<StateId> states;
    for (int64_t i = 0; i <= most; ++i) states.push_back(nfa.AddState());
    return states;
  };
  // A member between two states, with a comma unless it is the first one.
  const auto add = [&](Fragment name, RuleId values, StateId from, StateId to, bool first) {
    Fragment member = nfa.Concat({name, Between(':', &nfa), nfa.Call(values)});
    if (!first) member = nfa.Concat(Between(',', &nfa), member);
    nfa.AddEmpty(from, member.begin);
    nfa.AddEmpty(member.end, to);
  };
  std::vector<StateId> here = row();
  nfa.AddEmpty(open.end, here[0]);
  for (const DeclaredMember& member : declared) {
    const std::vector<StateId> next = row();
    for (int64_t i = 0; i <= most && !budget_->spent(); ++i) {
      if (!member.required) nfa.AddEmpty(here[i], next[i]);
      if (!member.values) continue;
      const Fragment name = nfa.Literal(QuotedJson(member.name));
      add(name, *member.values, here[i], next[std::min(i + 1, most)], i == 0);
    }
    here = next;
  }
  // Behind the first of the others, `min` is not helped by more of them.
  const std::vector<StateId> others = row();
  for (const ExtraMember& extra : extras) {
    const RuleId name = builder_.Declare("name");
    builder_.Define(name, extra.names);
    for (int64_t i = 0; i <= most && !budget_->spent(); ++i) {
      const int64_t count = std::min(i + 1, most);
      add(nfa.Call(name), extra.values, here[i], others[count], i == 0);
      if (i == 0) continue;
      if (sizes.max < 0) {
        add(nfa.Call(name), extra.values, others[i], others[i], false);
      } else if (sizes.min == 0) {
        add(nfa.Call(name), extra.values, others[i], others[count], false);
      }
    }
  }
  for (int64_t i = 0; i <= most; ++i) {
    if (i < sizes.min || (sizes.max >= 0 && i > sizes.max)) continue;
    nfa.AddEmpty(here[i], close.begin);
    nfa.AddEmpty(others[i], close.begin);
  }
  builder_.Define(rule, std::move(nfa), {open.begin, close.end});
  return absl::OkStatus();
}

}  // namespace tessera::grammar
