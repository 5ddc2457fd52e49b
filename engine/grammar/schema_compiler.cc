#include "engine/grammar/schema_compiler.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "engine/files/message.h"
#include "engine/grammar/json_text.h"
#include "engine/grammar/regex.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

using Kind = JsonNode::Kind;

constexpr size_t kMaxShapes = 2000;  // of one schema
constexpr int32_t kMaxSpace = 8;
constexpr int64_t kMaxRestrictedLength = 4096;  // of strings with a pattern as well

constexpr std::pair<uint8_t, std::string_view> kLooksInto[] = {
    {kNumberType, "minimum"},
    {kNumberType, "maximum"},
    {kNumberType, "exclusiveMinimum"},
    {kNumberType, "exclusiveMaximum"},
    {kNumberType, "multipleOf"},
    {kNumberType, SchemaDocument::kNumbers},
    {kNumberType, SchemaDocument::kNotNumbers},
    {kNumberType, SchemaDocument::kNotMultiple},
    {kNumberType, SchemaDocument::kFraction},
    {kBooleanType, SchemaDocument::kBooleans},
    {kStringType, "minLength"},
    {kStringType, "maxLength"},
    {kStringType, "pattern"},
    {kStringType, "format"},
    {kStringType, SchemaDocument::kStrings},
    {kStringType, SchemaDocument::kNotStrings},
    {kStringType, SchemaDocument::kNotPattern},
    {kArrayType, "items"},
    {kArrayType, "prefixItems"},
    {kArrayType, "minItems"},
    {kArrayType, "maxItems"},
    {kArrayType, "contains"},
    {kArrayType, "uniqueItems"},
    {kObjectType, "properties"},
    {kObjectType, "patternProperties"},
    {kObjectType, "required"},
    {kObjectType, "additionalProperties"},
    {kObjectType, "propertyNames"},
    {kObjectType, "minProperties"},
    {kObjectType, "maxProperties"}};

// In the order of the document, which is that of the members: addresses would have another order in
// each process.
void SortUnique(std::vector<const JsonNode*>* list) {
  std::sort(list->begin(), list->end(),
            [](const JsonNode* a, const JsonNode* b) { return a->number < b->number; });
  list->erase(std::unique(list->begin(), list->end()), list->end());
}

}  // namespace

Fragment SchemaCompiler::Space(Nfa* nfa) {
  const auto one = [&] { return nfa->CodePoints({{{'\t', '\n'}, {'\r', '\r'}, {' ', ' '}}}); };
  return nfa->Repeat(one, 0, kMaxSpace);
}

Fragment SchemaCompiler::Between(char byte, Nfa* nfa) {
  const Fragment before = Space(nfa);
  const Fragment middle = nfa->Symbols(static_cast<uint8_t>(byte), static_cast<uint8_t>(byte));
  return nfa->Concat({before, middle, Space(nfa)});
}

absl::StatusOr<RuleId> SchemaCompiler::ValuesOf(Claims claims) {
  std::sort(claims.begin(), claims.end());
  claims.erase(std::unique(claims.begin(), claims.end()), claims.end());
  std::erase_if(claims, [&](const Claim& claim) {
    return claim.schema->is(claim.negated ? Kind::kFalse : Kind::kTrue);
  });
  if (const auto known = rules_.find(claims); known != rules_.end()) return known->second;
  const std::string name =
      claims.empty() ? "any value" : Message("#", document_.PointerOf(claims[0].schema));
  const RuleId rule = builder_.Declare(name);
  rules_.emplace(claims, rule);
  pending_.emplace_back(rule, std::move(claims));
  RETURN_IF_ERROR(budget_->status());
  return rule;
}

absl::Status SchemaCompiler::CompileAll() {
  for (size_t i = 0; i < pending_.size(); ++i) {
    const auto [rule, claims] = pending_[i];
    RETURN_IF_ERROR(Define(rule, claims));
    RETURN_IF_ERROR(budget_->status());
  }
  pending_.clear();
  return absl::OkStatus();
}

absl::Status SchemaCompiler::Define(RuleId rule, const Claims& claims) {
  ASSIGN_OR_RETURN(const std::vector<ValueShape> shapes, ShapesOf(claims));
  Nfa nfa(budget_);
  std::vector<Fragment> parts;
  std::vector<RuleId> called;
  for (const ValueShape& shape : shapes) {
    for (int32_t bit = 1; bit < kAllTypes; bit *= 2) {
      if ((shape.types & bit) == 0) continue;
      ASSIGN_OR_RETURN(const RuleId part, TypeRule(static_cast<uint8_t>(bit), shape));
      if (std::find(called.begin(), called.end(), part) != called.end()) continue;
      called.push_back(part);
      parts.push_back(nfa.Call(part));
    }
  }
  const Fragment whole = nfa.Alternate(parts);
  builder_.Define(rule, std::move(nfa), whole);
  return absl::OkStatus();
}

// Takes over the facts of the claims that are to do.
absl::Status SchemaCompiler::Advance(Work* work) {
  while (!work->todo.empty() && work->shape.types != 0) {
    const Claim claim = work->todo.back();
    work->todo.pop_back();
    if (std::find(work->seen.begin(), work->seen.end(), claim) != work->seen.end()) continue;
    work->seen.push_back(claim);
    if (!budget_->Take(8)) return budget_->status();
    ASSIGN_OR_RETURN(const Facts* facts, document_.FactsOf(claim));
    if (facts->impossible) work->shape.types = 0;
    work->shape.types &= facts->types;
    work->shape.integer = work->shape.integer || facts->integer;
    work->todo.insert(work->todo.end(), facts->also.begin(), facts->also.end());
    work->choices.insert(work->choices.end(), facts->choices.begin(), facts->choices.end());
    if (facts->has_keywords) work->shape.schemas.push_back(claim.schema);
    if (!claim.negated) RETURN_IF_ERROR(CheckOneOf(claim.schema));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ValueShape>> SchemaCompiler::ShapesOf(const Claims& claims) {
  std::vector<ValueShape> shapes;
  std::vector<Work> works(1);
  works[0].todo = claims;
  while (!works.empty()) {
    Work work = std::move(works.back());
    works.pop_back();
    RETURN_IF_ERROR(Advance(&work));
    if (work.shape.types == 0) continue;
    if (work.choices.empty()) {
      RETURN_IF_ERROR(AddLeftOvers(&work));
      SortUnique(&work.shape.schemas);
      shapes.push_back(std::move(work.shape));
    } else {
      const std::vector<Claims> choice = std::move(work.choices.back());
      work.choices.pop_back();
      for (size_t i = choice.size(); i-- > 0;) {
        works.push_back(work);
        works.back().todo.insert(works.back().todo.end(), choice[i].begin(), choice[i].end());
      }
    }
    if (shapes.size() + works.size() > kMaxShapes ||
        !budget_->Take(static_cast<int64_t>(work.seen.size()))) {
      return document_.Refusal(claims[0].schema, "", "has too many alternatives");
    }
  }
  return shapes;
}

absl::Status SchemaCompiler::AddLeftOvers(Work* work) {
  if (!document_.looks_back()) return absl::OkStatus();
  const HeldClaims held(work->seen);
  for (const Claim& claim : work->seen) {
    if (claim.negated) continue;
    ASSIGN_OR_RETURN(const JsonNode* schema, document_.LeftOver(claim.schema, held));
    if (schema == nullptr) continue;
    work->shape.schemas.push_back(schema);
    if (!budget_->Take(static_cast<int64_t>(work->seen.size()))) return budget_->status();
  }
  return absl::OkStatus();
}

absl::Status SchemaCompiler::CheckOneOf(const JsonNode* schema) {
  const JsonNode* list = schema->Find("oneOf");
  if (list == nullptr || list->items.size() < 2 || !checked_.try_emplace(list, true).second) {
    return absl::OkStatus();
  }
  for (size_t i = 0; i < list->items.size(); ++i) {
    for (size_t j = i + 1; j < list->items.size(); ++j) {
      ASSIGN_OR_RETURN(const RuleId both,
                       ValuesOf({{list->items[i], false}, {list->items[j], false}}));
      overlaps_.emplace_back(both, list);
    }
  }
  return absl::OkStatus();
}

SchemaCompiler::Schemas SchemaCompiler::Relevant(uint8_t type, const Schemas& schemas) const {
  Schemas out;
  for (const JsonNode* schema : schemas) {
    const bool looks =
        std::any_of(std::begin(kLooksInto), std::end(kLooksInto), [&](const auto& entry) {
          return entry.first == type && document_.Keyword(schema, entry.second) != nullptr;
        });
    if (looks) out.push_back(schema);
  }
  return out;
}

absl::StatusOr<RuleId> SchemaCompiler::TypeRule(uint8_t type, const ValueShape& shape) {
  const Schemas schemas = Relevant(type, shape.schemas);
  const bool integer = type == kNumberType && shape.integer;
  const auto [entry, is_new] = type_rules_.try_emplace({type, integer, schemas}, 0);
  if (!is_new) return entry->second;
  const RuleId rule = builder_.Declare("value");
  entry->second = rule;
  switch (type) {
    case kNullType: {
      builder_.Define(rule, LiteralSet({"null"}, budget_));
      break;
    }
    case kBooleanType: {
      ASSIGN_OR_RETURN(Dfa booleans, Booleans(schemas));
      builder_.Define(rule, std::move(booleans));
      break;
    }
    case kNumberType: {
      ASSIGN_OR_RETURN(Dfa numbers, Numbers(schemas, integer));
      builder_.Define(rule, std::move(numbers));
      break;
    }
    case kStringType:
      RETURN_IF_ERROR(DefineString(rule, schemas));
      break;
    case kArrayType:
      RETURN_IF_ERROR(DefineArray(rule, schemas));
      break;
    default:
      RETURN_IF_ERROR(DefineObject(rule, schemas));
      break;
  }
  return rule;
}

absl::StatusOr<SizeBounds> SchemaCompiler::Bounds(const Schemas& schemas, std::string_view min,
                                                  std::string_view max) const {
  SizeBounds out;
  for (const JsonNode* schema : schemas) {
    for (const std::string_view name : {min, max}) {
      const JsonNode* value = document_.Keyword(schema, name);
      if (value == nullptr) continue;
      const std::optional<Decimal> number =
          value->is(Kind::kNumber) ? ReadDecimal(value->text) : std::nullopt;
      if (!number || number->negative || !number->fraction.empty()) {
        return document_.Refusal(schema, name, "must be an integer of at least 0");
      }
      int64_t size = std::numeric_limits<int32_t>::max();
      if (number->whole.size() < 10) static_cast<void>(absl::SimpleAtoi(number->whole, &size));
      if (name == min) {
        out.min = std::max(out.min, size);
      } else if (size < std::numeric_limits<int32_t>::max()) {
        out.max = out.max < 0 ? size : std::min(out.max, size);
      }
    }
  }
  return out;
}

absl::StatusOr<Dfa> SchemaCompiler::Booleans(const Schemas& schemas) const {
  bool may[2] = {true, true};
  for (const JsonNode* schema : schemas) {
    const JsonNode* list = document_.Keyword(schema, SchemaDocument::kBooleans);
    bool listed[2] = {};
    for (const JsonNode* item : list->items) listed[item->is(Kind::kTrue) ? 1 : 0] = true;
    for (int32_t i = 0; i < 2; ++i) may[i] = may[i] && listed[i];
  }
  std::vector<std::string_view> texts;
  if (may[0]) texts.emplace_back("false");
  if (may[1]) texts.emplace_back("true");
  return LiteralSet(texts, budget_);
}

absl::StatusOr<Dfa> SchemaCompiler::NumberSet(const JsonNode* list, bool inside) const {
  std::vector<std::string> texts;
  std::optional<Dfa> outside;
  for (const JsonNode* item : list->items) {
    const std::optional<Decimal> value = ReadDecimal(item->text);
    if (!value) return document_.Refusal(item, "", "a number with too many digits");
    texts.push_back(DecimalText(*value));
    if (inside) continue;
    Dfa differs = NumbersThat(Relation::kDiffers, *value, budget_);
    outside = outside ? Intersect(*outside, differs, budget_) : std::move(differs);
  }
  if (!inside) return *std::move(outside);
  return LiteralSet(std::vector<std::string_view>(texts.begin(), texts.end()), budget_);
}

absl::Status SchemaCompiler::NarrowNumbers(const JsonNode* schema, std::vector<Dfa>* parts) const {
  static constexpr std::pair<std::string_view, Relation> kBounds[] = {
      {"minimum", Relation::kAtLeast},
      {"maximum", Relation::kAtMost},
      {"exclusiveMinimum", Relation::kGreater},
      {"exclusiveMaximum", Relation::kLess}};
  const auto number = [&](std::string_view name, const JsonNode* value) -> absl::StatusOr<Decimal> {
    const auto decimal = value->is(Kind::kNumber) ? ReadDecimal(value->text) : std::nullopt;
    if (!decimal) return document_.Refusal(schema, name, "must be a number that is not too long");
    return *decimal;
  };
  for (const auto& [name, relation] : kBounds) {
    const JsonNode* value = document_.Keyword(schema, name);
    if (value == nullptr) continue;
    ASSIGN_OR_RETURN(const Decimal bound, number(name, value));
    parts->push_back(NumbersThat(relation, bound, budget_));
  }
  for (const std::string_view name :
       {std::string_view("multipleOf"), SchemaDocument::kNotMultiple}) {
    const JsonNode* value = document_.Keyword(schema, name);
    if (value == nullptr) continue;
    ASSIGN_OR_RETURN(const Decimal factor, number(name, value));
    std::optional<Dfa> multiples = Multiples(factor, name == "multipleOf", budget_);
    if (!multiples) return document_.Refusal(schema, "multipleOf", "must be positive and short");
    parts->push_back(*std::move(multiples));
  }
  for (const std::string_view name : {SchemaDocument::kNumbers, SchemaDocument::kNotNumbers}) {
    const JsonNode* list = document_.Keyword(schema, name);
    if (list == nullptr) continue;
    ASSIGN_OR_RETURN(Dfa set, NumberSet(list, name == SchemaDocument::kNumbers));
    parts->push_back(std::move(set));
  }
  if (document_.Keyword(schema, SchemaDocument::kFraction) != nullptr) {
    parts->push_back(Fractions(budget_));
  }
  return absl::OkStatus();
}

absl::StatusOr<Dfa> SchemaCompiler::Numbers(const Schemas& schemas, bool integer) const {
  std::vector<Dfa> parts;
  for (const JsonNode* schema : schemas) RETURN_IF_ERROR(NarrowNumbers(schema, &parts));
  Dfa numbers = integer ? Integers(budget_) : AnyNumber(budget_);
  for (const Dfa& part : parts) numbers = Intersect(numbers, part, budget_);
  return numbers;
}

absl::StatusOr<Dfa> SchemaCompiler::TextSet(const JsonNode* list) const {
  std::vector<std::string_view> texts;
  for (const JsonNode* item : list->items) texts.push_back(item->text);
  return LiteralSet(texts, budget_);
}

absl::Status SchemaCompiler::NarrowTexts(const JsonNode* schema, std::vector<Dfa>* parts) const {
  for (const std::string_view name : {std::string_view("pattern"), SchemaDocument::kNotPattern}) {
    const JsonNode* pattern = document_.Keyword(schema, name);
    if (pattern == nullptr) continue;
    if (!pattern->is(Kind::kString)) return document_.Refusal(schema, name, "must be a string");
    absl::StatusOr<Dfa> dfa = CompileRegex(pattern->text, RegexMatch::kSearch, budget_);
    if (!dfa.ok()) return document_.Refusal(schema, "pattern", std::string(dfa.status().message()));
    parts->push_back(name == "pattern" ? *std::move(dfa) : Complement(*dfa, budget_));
  }
  if (const JsonNode* format = document_.Keyword(schema, "format"); format != nullptr) {
    const char* pattern = FormatPattern(format->text);
    if (pattern == nullptr) {
      return document_.Refusal(
          schema, "format",
          Message("the format \"", format->text.substr(0, 100), "\" is not supported"));
    }
    ASSIGN_OR_RETURN(Dfa dfa, CompileRegex(pattern, RegexMatch::kWhole, budget_));
    parts->push_back(std::move(dfa));
  }
  for (const std::string_view name : {SchemaDocument::kStrings, SchemaDocument::kNotStrings}) {
    const JsonNode* list = document_.Keyword(schema, name);
    if (list == nullptr) continue;
    ASSIGN_OR_RETURN(Dfa set, TextSet(list));
    parts->push_back(name == SchemaDocument::kStrings ? std::move(set) : Complement(set, budget_));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Dfa>> SchemaCompiler::Texts(const Schemas& schemas,
                                                         bool with_length) const {
  std::vector<Dfa> parts;
  for (const JsonNode* schema : schemas) RETURN_IF_ERROR(NarrowTexts(schema, &parts));
  ASSIGN_OR_RETURN(const SizeBounds length, Bounds(schemas, "minLength", "maxLength"));
  const bool has_length = length.min > 0 || length.max >= 0;
  if (parts.empty() && (!has_length || !with_length)) return std::nullopt;
  if (has_length) {
    if (std::max(length.min, length.max) > kMaxRestrictedLength) {
      return document_.Refusal(schemas[0], "",
                               Message("a length of more than ", kMaxRestrictedLength,
                                       " beside other restrictions of the text"));
    }
    if (length.max >= 0 && length.max < length.min) return Dfa{.states = {Dfa::State()}};
    parts.push_back(TextsOfLength(length.min, length.max, budget_));
  }
  Dfa texts = AnyText(budget_);
  for (const Dfa& part : parts) texts = Intersect(texts, part, budget_);
  return texts;
}

absl::Status SchemaCompiler::DefineString(RuleId rule, const Schemas& schemas) {
  ASSIGN_OR_RETURN(const std::optional<Dfa> texts, Texts(schemas, false));
  if (texts) {
    builder_.Define(rule, JsonStrings(*texts, budget_));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const SizeBounds length, Bounds(schemas, "minLength", "maxLength"));
  Nfa nfa(budget_);
  const Fragment open = nfa.Literal("\"");
  Fragment middle;
  if (length.min == 0 && length.max < 0) {
    middle = nfa.Star(JsonCharacter(&nfa));
  } else if (length.max >= 0 && length.max < length.min) {
    middle = nfa.Nothing();
  } else {
    const RuleId character = builder_.Declare("character");
    Nfa one(budget_);
    const Fragment whole = JsonCharacter(&one);
    builder_.Define(character, std::move(one), whole);
    const RuleId text = builder_.Declare("text");
    builder_.DefineCounted(text, character, static_cast<uint32_t>(length.min),
                           length.max < 0 ? kUnbounded : static_cast<uint32_t>(length.max));
    middle = nfa.Call(text);
  }
  const Fragment whole = nfa.Concat({open, middle, nfa.Literal("\"")});
  builder_.Define(rule, std::move(nfa), whole);
  return absl::OkStatus();
}

}  // namespace tessera::grammar
