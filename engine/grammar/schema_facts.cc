// What a schema says apart from looking into values: references, combinations, types, constants.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/files/message.h"
#include "engine/grammar/json_text.h"
#include "engine/grammar/schema_document.h"
#include "engine/grammar/schema_types.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

using Kind = JsonNode::Kind;

constexpr std::string_view kUnsupported[] = {"$recursiveRef", "dependencies", "additionalItems"};
constexpr size_t kMaxSubsets = 4;  // branches of which every set may hold
constexpr std::string_view kLooking[] = {"minimum",
                                         "maximum",
                                         "exclusiveMinimum",
                                         "exclusiveMaximum",
                                         "multipleOf",
                                         "minLength",
                                         "maxLength",
                                         "pattern",
                                         "format",
                                         "items",
                                         "prefixItems",
                                         "minItems",
                                         "maxItems",
                                         "contains",
                                         "minContains",
                                         "maxContains",
                                         "uniqueItems",
                                         "properties",
                                         "patternProperties",
                                         "required",
                                         "additionalProperties",
                                         "propertyNames",
                                         "minProperties",
                                         "maxProperties"};

}  // namespace

// Reads the facts of one claim.
class FactReader {
 public:
  FactReader(SchemaDocument* document, const Claim& claim)
      : document_(*document), schema_(claim.schema), negated_(claim.negated) {}

  absl::StatusOr<Facts> Read() {
    if (schema_->is_bool()) {
      facts_.impossible = schema_->is(Kind::kTrue) == negated_;
      return std::move(facts_);
    }
    if (!schema_->is(Kind::kObject)) {
      return document_.Refusal(schema_, "", "a schema must be an object or a boolean");
    }
    RETURN_IF_ERROR(negated_ ? ReadNegated() : ReadAsserted());
    return std::move(facts_);
  }

 private:
  using Keyword = std::pair<std::string, const JsonNode*>;

  absl::Status Refusal(std::string_view keyword, std::string_view why) const {
    return document_.Refusal(schema_, keyword, why);
  }

  // --- Nodes of ours ---
  JsonNode* NewSchema() {
    JsonNode* node = document_.tree().Add(Kind::kObject);
    document_.ours_.insert(node);
    // Refusals of it point to the schema it came from.
    const auto place = document_.places_.find(schema_);
    if (place != document_.places_.end()) {
      SchemaDocument::Place copy = place->second;
      document_.places_.emplace(node, std::move(copy));
    }
    return node;
  }
  const JsonNode* Text(std::string_view text, Kind kind = Kind::kString) {
    JsonNode* node = document_.tree().Add(kind);
    node->text = text;
    return node;
  }
  JsonNode* Typed(uint8_t type) {
    JsonNode* node = NewSchema();
    node->members.emplace_back("type", Text(NameOf(type)));
    return node;
  }
  // {"type": …, keyword: value}
  Claims Simple(uint8_t type, std::string_view keyword, const JsonNode* value) {
    JsonNode* node = Typed(type);
    node->members.emplace_back(keyword, value);
    return {{node, false}};
  }
  const JsonNode* Number(int64_t value) { return Text(Message(value), Kind::kNumber); }

  absl::StatusOr<const JsonNode*> SchemaOf(const Keyword& keyword) const {
    if (keyword.second->is(Kind::kObject) || keyword.second->is_bool()) return keyword.second;
    return Refusal(keyword.first, "must be a schema");
  }
  absl::StatusOr<Claims> List(const Keyword& keyword, bool negated) const {
    if (!keyword.second->is(Kind::kArray) || keyword.second->items.empty()) {
      return Refusal(keyword.first, "must be an array of schemas");
    }
    Claims out;
    for (const JsonNode* item : keyword.second->items) out.push_back({item, negated});
    return out;
  }
  static std::vector<Claims> Each(const Claims& claims) {
    std::vector<Claims> out;
    for (const Claim& claim : claims) out.push_back({claim});
    return out;
  }

  // What unevaluated… see depends on all branches that hold, not on one of them.
  static std::vector<Claims> Subsets(const Claims& claims) {
    if (claims.size() > kMaxSubsets) return Each(claims);
    std::vector<Claims> out;
    for (size_t set = 1; set < size_t{1} << claims.size(); ++set) {
      out.emplace_back();
      for (size_t i = 0; i < claims.size(); ++i) {
        if ((set >> i & 1) != 0) out.back().push_back(claims[i]);
      }
    }
    return out;
  }

  // --- Asserted ---
  absl::Status ReadAsserted() {
    for (const Keyword& keyword : schema_->members) {
      if (std::count(std::begin(kUnsupported), std::end(kUnsupported), keyword.first) > 0) {
        return Refusal(keyword.first, "this keyword is not supported");
      }
      RETURN_IF_ERROR(ReadKeyword(keyword));
    }
    return ReadCondition();
  }

  absl::Status ReadKeyword(const Keyword& keyword) {
    const auto& [name, value] = keyword;
    const bool is_ours = name[0] == '=' || name[0] == '!';
    if (std::count(std::begin(kLooking), std::end(kLooking), name) > 0 ||
        (is_ours && document_.ours_.contains(schema_))) {
      facts_.has_keywords = true;
      return absl::OkStatus();
    }
    if (name == "$ref" || name == "$dynamicRef") return ReadReference(keyword);
    if (name == "type") return ReadType(value);
    if (name == "const") return ReadValues({value});
    if (name == "enum") {
      if (!value->is(Kind::kArray)) return Refusal(name, "must be an array");
      return ReadValues(value->items);
    }
    if (name == "allOf") {
      ASSIGN_OR_RETURN(const Claims all, List(keyword, false));
      facts_.also.insert(facts_.also.end(), all.begin(), all.end());
    } else if (name == "anyOf") {
      ASSIGN_OR_RETURN(const Claims any, List(keyword, false));
      facts_.choices.push_back(document_.looks_back_ ? Subsets(any) : Each(any));
    } else if (name == "oneOf") {
      return ReadOneOf(keyword);
    } else if (name == "not") {
      ASSIGN_OR_RETURN(const JsonNode* schema, SchemaOf(keyword));
      facts_.also.push_back({schema, true});
    } else if (name == "dependentRequired" || name == "dependentSchemas") {
      return ReadDependent(keyword);
    }
    return absl::OkStatus();
  }

  absl::Status ReadReference(const Keyword& keyword) {
    const JsonNode* value = keyword.second;
    if (!value->is(Kind::kString)) return Refusal(keyword.first, "must be a string");
    ASSIGN_OR_RETURN(const JsonNode* target, document_.Resolve(schema_, value->text));
    if (keyword.first == "$dynamicRef") {
      RETURN_IF_ERROR(document_.CheckDynamic(schema_, target, value->text));
    }
    facts_.also.push_back({target, false});
    return absl::OkStatus();
  }

  absl::StatusOr<std::pair<uint8_t, bool>> Types(const JsonNode* value) const {
    std::vector<const JsonNode*> names = value->items;
    if (value->is(Kind::kString)) names = {value};
    uint8_t types = 0;
    bool number = false;
    for (const JsonNode* name : names) {
      const uint8_t type = name->is(Kind::kString) ? TypeNamed(name->text) : uint8_t{0};
      if (type == 0) return Refusal("type", "unknown type");
      types |= type;
      number = number || name->text == "number";
    }
    if (types == 0) return Refusal("type", "must be the name of a type or a list of them");
    return std::pair(types, (types & kNumberType) != 0 && !number);
  }

  absl::Status ReadType(const JsonNode* value) {
    ASSIGN_OR_RETURN(const auto types, Types(value));
    facts_.types &= types.first;
    facts_.integer = facts_.integer || types.second;
    return absl::OkStatus();
  }

  // The schema of exactly this array or object.
  Claims Exactly(const JsonNode* value) {
    JsonNode* node = Typed(TypeOf(*value));
    const auto constant = [&](const JsonNode* part) {
      JsonNode* schema = NewSchema();
      schema->members.emplace_back("const", part);
      return schema;
    };
    if (value->is(Kind::kArray)) {
      JsonNode* prefix = document_.tree().Add(Kind::kArray);
      for (const JsonNode* item : value->items) prefix->items.push_back(constant(item));
      if (!prefix->items.empty()) node->members.emplace_back("prefixItems", prefix);
      node->members.emplace_back("items", document_.nothing());
      node->members.emplace_back("minItems", Number(static_cast<int64_t>(value->items.size())));
      return {{node, false}};
    }
    JsonNode* properties = document_.tree().Add(Kind::kObject);
    JsonNode* required = document_.tree().Add(Kind::kArray);
    for (const auto& [name, part] : value->members) {
      properties->members.emplace_back(name, constant(part));
      required->items.push_back(Text(name));
    }
    node->members.emplace_back("properties", properties);
    node->members.emplace_back("required", required);
    node->members.emplace_back("additionalProperties", document_.nothing());
    return {{node, false}};
  }

  absl::Status ReadValues(const std::vector<const JsonNode*>& values) {
    std::vector<Claims> choices;
    JsonNode* lists[3] = {};
    const std::pair<uint8_t, std::string_view> kinds[] = {
        {kStringType, SchemaDocument::kStrings},
        {kNumberType, SchemaDocument::kNumbers},
        {kBooleanType, SchemaDocument::kBooleans}};
    for (const JsonNode* value : values) {
      const uint8_t type = TypeOf(*value);
      if (type == kNullType) {
        choices.push_back({{Typed(type), false}});
      } else if (type == kArrayType || type == kObjectType) {
        choices.push_back(Exactly(value));
      } else {
        size_t kind = 0;
        while (kinds[kind].first != type) ++kind;
        if (lists[kind] == nullptr) {
          lists[kind] = document_.tree().Add(Kind::kArray);
          choices.push_back(Simple(type, kinds[kind].second, lists[kind]));
        }
        lists[kind]->items.push_back(value);
      }
    }
    if (choices.empty()) facts_.impossible = true;
    facts_.choices.push_back(std::move(choices));
    return absl::OkStatus();
  }

  absl::Status ReadOneOf(const Keyword& keyword) {
    ASSIGN_OR_RETURN(const Claims all, List(keyword, false));
    if (!document_.exact_.contains(keyword.second)) {
      facts_.choices.push_back(Each(all));
      return absl::OkStatus();
    }
    std::vector<Claims> choices;
    for (size_t i = 0; i < all.size(); ++i) {
      Claims choice = all;
      for (size_t j = 0; j < all.size(); ++j) choice[j].negated = j != i;
      choices.push_back(std::move(choice));
    }
    facts_.choices.push_back(std::move(choices));
    return absl::OkStatus();
  }

  Claims Lacks(const std::string& name) {
    JsonNode* properties = document_.tree().Add(Kind::kObject);
    properties->members.emplace_back(name, document_.nothing());
    return {{Properties(properties), false}};
  }
  const JsonNode* Properties(const JsonNode* properties) {
    JsonNode* node = NewSchema();
    node->members.emplace_back("properties", properties);
    return node;
  }

  absl::Status ReadDependent(const Keyword& keyword) {
    for (const auto& [name, value] : keyword.second->members) {
      JsonNode* node = NewSchema();
      if (keyword.first == "dependentRequired") {
        node->members.emplace_back("required", value);
        facts_.choices.push_back({Lacks(name), {{node, false}}});
        continue;
      }
      JsonNode* required = document_.tree().Add(Kind::kArray);
      required->items.push_back(Text(name));
      node->members.emplace_back("required", required);
      facts_.choices.push_back({Lacks(name), {{value, false}, {node, false}}});
    }
    return absl::OkStatus();
  }

  // (if and then) or (not if and else)
  absl::Status ReadCondition() {
    const JsonNode* condition = schema_->Find("if");
    if (condition == nullptr) return absl::OkStatus();
    const JsonNode* then = schema_->Find("then");
    const JsonNode* otherwise = schema_->Find("else");
    if (then == nullptr && otherwise == nullptr) return absl::OkStatus();
    if (then == nullptr) then = document_.any();
    if (otherwise == nullptr) otherwise = document_.any();
    facts_.choices.push_back(
        {{{condition, false}, {then, false}}, {{condition, true}, {otherwise, false}}});
    return absl::OkStatus();
  }

  // --- Negated: one of the keywords does not hold ---
  absl::Status ReadNegated() {
    for (const Keyword& keyword : schema_->members) RETURN_IF_ERROR(Negate(keyword));
    if (const JsonNode* condition = schema_->Find("if"); condition != nullptr) {
      if (const JsonNode* then = schema_->Find("then")) {
        ways_.push_back({{condition, false}, {then, true}});
      }
      if (const JsonNode* otherwise = schema_->Find("else")) {
        ways_.push_back({{condition, true}, {otherwise, true}});
      }
    }
    if (ways_.empty()) facts_.impossible = true;
    facts_.choices.push_back(std::move(ways_));
    return absl::OkStatus();
  }

  absl::Status Negate(const Keyword& keyword) {
    const auto& [name, value] = keyword;
    if (name == "$ref") {
      if (!value->is(Kind::kString)) return Refusal("$ref", "must be a string");
      ASSIGN_OR_RETURN(const JsonNode* target, document_.Resolve(schema_, value->text));
      ways_.push_back({{target, true}});
    } else if (name == "type") {
      return NegateType(value);
    } else if (name == "const") {
      return NegateValues({value});
    } else if (name == "enum") {
      return NegateValues(value->items);
    } else if (name == "not") {
      ways_.push_back({{value, false}});
    } else if (name == "allOf") {
      ASSIGN_OR_RETURN(const Claims all, List(keyword, true));
      for (const Claim& claim : all) ways_.push_back({claim});
    } else if (name == "anyOf") {
      ASSIGN_OR_RETURN(const Claims all, List(keyword, true));
      ways_.push_back(all);
    } else if (name == "required") {
      for (const JsonNode* item : value->items) {
        Claims way = Lacks(item->text);
        way.push_back({Typed(kObjectType), false});
        ways_.push_back(std::move(way));
      }
    } else if (name == "properties") {
      NegateProperties(*value);
    } else {
      return NegateBound(keyword);
    }
    return absl::OkStatus();
  }

  void NegateProperties(const JsonNode& properties) {
    for (const auto& [name, schema] : properties.members) {
      JsonNode* inner = NewSchema();
      inner->members.emplace_back("not", schema);
      JsonNode* list = document_.tree().Add(Kind::kObject);
      list->members.emplace_back(name, inner);
      JsonNode* required = document_.tree().Add(Kind::kArray);
      required->items.push_back(Text(name));
      JsonNode* node = Typed(kObjectType);
      node->members.emplace_back("properties", list);
      node->members.emplace_back("required", required);
      ways_.push_back({{node, false}});
    }
  }

  absl::Status NegateType(const JsonNode* value) {
    ASSIGN_OR_RETURN(const auto types, Types(value));
    for (int32_t bit = 1; bit < kAllTypes; bit *= 2) {
      if ((types.first & bit) == 0) ways_.push_back({{Typed(static_cast<uint8_t>(bit)), false}});
    }
    if (types.second) {
      ways_.push_back(Simple(kNumberType, SchemaDocument::kFraction, document_.any()));
    }
    return absl::OkStatus();
  }

  absl::Status NegateValues(const std::vector<const JsonNode*>& values) {
    uint8_t rest = kAllTypes;
    JsonNode* strings = document_.tree().Add(Kind::kArray);
    JsonNode* numbers = document_.tree().Add(Kind::kArray);
    bool has[2] = {};
    for (const JsonNode* value : values) {
      const uint8_t type = TypeOf(*value);
      rest &= static_cast<uint8_t>(~type);
      if (type == kStringType) strings->items.push_back(value);
      if (type == kNumberType) numbers->items.push_back(value);
      if (type == kBooleanType) has[value->is(Kind::kTrue) ? 1 : 0] = true;
      if (type == kArrayType || type == kObjectType) {
        return Refusal("", "an array or object here cannot be negated");
      }
    }
    for (int32_t bit = 1; bit < kAllTypes; bit *= 2) {
      if ((rest & bit) != 0) ways_.push_back({{Typed(static_cast<uint8_t>(bit)), false}});
    }
    if (!strings->items.empty()) {
      ways_.push_back(Simple(kStringType, SchemaDocument::kNotStrings, strings));
    }
    if (!numbers->items.empty()) {
      ways_.push_back(Simple(kNumberType, SchemaDocument::kNotNumbers, numbers));
    }
    if (has[0] != has[1]) {
      JsonNode* other = document_.tree().Add(Kind::kArray);
      other->items.push_back(document_.tree().Add(has[0] ? Kind::kTrue : Kind::kFalse));
      ways_.push_back(Simple(kBooleanType, SchemaDocument::kBooleans, other));
    }
    return absl::OkStatus();
  }

  // The keyword that says the opposite of a bound on a size: `by` more or less.
  absl::Status NegateSize(uint8_t type, std::string_view opposite, const Keyword& keyword,
                          int64_t by) {
    const auto number = ReadDecimal(keyword.second->text);
    int64_t value = 0;
    if (!keyword.second->is(Kind::kNumber) || !number || !number->fraction.empty() ||
        !absl::SimpleAtoi(number->whole, &value)) {
      return Refusal(keyword.first, "must be a number that is not too large");
    }
    if (value + by >= 0) ways_.push_back(Simple(type, opposite, Number(value + by)));
    return absl::OkStatus();
  }

  absl::Status NegateBound(const Keyword& keyword) {
    const auto& [name, value] = keyword;
    struct Pair {
      std::string_view name;
      uint8_t type;
      std::string_view opposite;
      int64_t by;  // 0: the same value
    };
    static constexpr Pair kPairs[] = {
        {"minimum", kNumberType, "exclusiveMaximum", 0},
        {"maximum", kNumberType, "exclusiveMinimum", 0},
        {"exclusiveMinimum", kNumberType, "maximum", 0},
        {"exclusiveMaximum", kNumberType, "minimum", 0},
        {"multipleOf", kNumberType, SchemaDocument::kNotMultiple, 0},
        {"pattern", kStringType, SchemaDocument::kNotPattern, 0},
        {"minLength", kStringType, "maxLength", -1},
        {"maxLength", kStringType, "minLength", 1},
        {"minItems", kArrayType, "maxItems", -1},
        {"maxItems", kArrayType, "minItems", 1},
        {"minProperties", kObjectType, "maxProperties", -1},
        {"maxProperties", kObjectType, "minProperties", 1},
    };
    for (const Pair& pair : kPairs) {
      if (pair.name != name) continue;
      if (pair.by != 0) return NegateSize(pair.type, pair.opposite, keyword, pair.by);
      ways_.push_back(Simple(pair.type, pair.opposite, value));
      return absl::OkStatus();
    }
    const bool is_known = std::count(std::begin(kLooking), std::end(kLooking), name) > 0 ||
                          std::count(std::begin(kUnsupported), std::end(kUnsupported), name) > 0 ||
                          name == "oneOf" || name.starts_with("dependent") ||
                          name.starts_with("unevaluated") || name == "$dynamicRef" ||
                          document_.ours_.contains(schema_);
    if (is_known) return Refusal(name, "cannot be negated");
    return absl::OkStatus();
  }

  SchemaDocument& document_;
  const JsonNode* const schema_;
  const bool negated_;
  Facts facts_;
  std::vector<Claims> ways_;
};

absl::StatusOr<const Facts*> SchemaDocument::FactsOf(const Claim& claim) {
  const auto known = facts_.find(claim);
  if (known != facts_.end()) return known->second.get();
  ASSIGN_OR_RETURN(Facts facts, FactReader(this, claim).Read());
  auto kept = std::make_unique<Facts>(std::move(facts));
  return facts_.emplace(claim, std::move(kept)).first->second.get();
}

}  // namespace tessera::grammar
