// unevaluatedProperties and unevaluatedItems: what is left over by the schemas that are applied to
// the same value.
#include <algorithm>
#include <string>
#include <utility>

#include "engine/files/message.h"
#include "engine/grammar/schema_document.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

using Kind = JsonNode::Kind;

bool Holds(const HeldClaims& held, const JsonNode* schema, bool negated = false) {
  return std::binary_search(held.claims.begin(), held.claims.end(), Claim{schema, negated});
}

}  // namespace

HeldClaims::HeldClaims(Claims all) : claims(std::move(all)) {
  std::sort(claims.begin(), claims.end());
  for (const Claim& claim : claims) {
    const JsonNode* names = claim.negated ? nullptr : claim.schema->Find("required");
    if (names == nullptr) continue;
    for (const JsonNode* name : names->items) required.insert(name->text);
  }
}

// Those schemas that `schema` applies to its own value and that hold by the claims. (A schema that
// holds without being claimed is not seen: then less counts as evaluated, and less is accepted.)
absl::StatusOr<std::vector<const JsonNode*>> SchemaDocument::InPlace(const JsonNode* schema,
                                                                     const HeldClaims& held) {
  std::vector<const JsonNode*> out;
  const auto add = [&](const JsonNode* child) {
    if (child != nullptr && Holds(held, child)) out.push_back(child);
  };
  for (const char* name : {"allOf", "anyOf", "oneOf"}) {
    const JsonNode* list = schema->Find(name);
    if (list != nullptr) std::for_each(list->items.begin(), list->items.end(), add);
  }
  for (const char* name : {"$ref", "$dynamicRef"}) {
    const JsonNode* reference = schema->Find(name);
    if (reference == nullptr || !reference->is(Kind::kString)) continue;
    ASSIGN_OR_RETURN(const JsonNode* target, Resolve(schema, reference->text));
    add(target);
  }
  if (const JsonNode* condition = schema->Find("if"); condition != nullptr) {
    add(condition);
    if (Holds(held, condition)) add(schema->Find("then"));
    if (Holds(held, condition, true)) add(schema->Find("else"));
  }
  if (const JsonNode* dependent = schema->Find("dependentSchemas"); dependent != nullptr) {
    for (const auto& [name, child] : dependent->members) {
      if (held.required.contains(name)) add(child);
    }
  }
  return out;
}

absl::StatusOr<std::vector<const JsonNode*>> SchemaDocument::Applied(const JsonNode* schema,
                                                                     const HeldClaims& held) {
  std::vector<const JsonNode*> applied = {schema};
  absl::flat_hash_set<const JsonNode*> known = {schema};
  for (size_t i = 0; i < applied.size(); ++i) {
    if (!applied[i]->is(Kind::kObject)) continue;
    ASSIGN_OR_RETURN(const std::vector<const JsonNode*> children, InPlace(applied[i], held));
    for (const JsonNode* child : children) {
      if (known.insert(child).second) applied.push_back(child);
    }
  }
  std::sort(applied.begin() + 1, applied.end());
  return applied;
}

// `keyword` as if the keywords of all applied schemas stood beside it.
void SchemaDocument::LeftOverMembers(const std::vector<const JsonNode*>& applied, JsonNode* node) {
  JsonNode* properties = tree_.Add(Kind::kObject);
  JsonNode* patterns = tree_.Add(Kind::kObject);
  for (const JsonNode* schema : applied) {
    const bool is_own = schema == applied.front();
    if (schema->Find("additionalProperties") != nullptr ||
        (!is_own && schema->Find("unevaluatedProperties") != nullptr)) {
      return;  // nothing is left over
    }
    for (const auto& [name, list] :
         {std::pair("properties", properties), std::pair("patternProperties", patterns)}) {
      const JsonNode* members = schema->Find(name);
      if (members == nullptr) continue;
      for (const auto& [key, value] : members->members) {
        if (list->Find(key) == nullptr) list->members.emplace_back(key, any_);
      }
    }
  }
  node->members.emplace_back("properties", properties);
  node->members.emplace_back("patternProperties", patterns);
  node->members.emplace_back("additionalProperties",
                             applied.front()->Find("unevaluatedProperties"));
}

absl::Status SchemaDocument::LeftOverItems(const std::vector<const JsonNode*>& applied,
                                           JsonNode* node) {
  size_t evaluated = 0;
  for (const JsonNode* schema : applied) {
    const bool is_own = schema == applied.front();
    if (schema->Find("items") != nullptr ||
        (!is_own && schema->Find("unevaluatedItems") != nullptr)) {
      return absl::OkStatus();
    }
    if (schema->Find("contains") != nullptr) {
      return Refusal(applied.front(), "unevaluatedItems", "not together with contains");
    }
    const JsonNode* prefix = schema->Find("prefixItems");
    if (prefix != nullptr) evaluated = std::max(evaluated, prefix->items.size());
  }
  JsonNode* prefix = tree_.Add(Kind::kArray);
  prefix->items.assign(evaluated, any_);
  if (evaluated > 0) node->members.emplace_back("prefixItems", prefix);
  node->members.emplace_back("items", applied.front()->Find("unevaluatedItems"));
  return absl::OkStatus();
}

absl::StatusOr<const JsonNode*> SchemaDocument::LeftOver(const JsonNode* schema,
                                                         const HeldClaims& held) {
  const JsonNode* properties = schema->Find("unevaluatedProperties");
  const JsonNode* items = schema->Find("unevaluatedItems");
  if (properties == nullptr && items == nullptr) return nullptr;
  ASSIGN_OR_RETURN(std::vector<const JsonNode*> applied, Applied(schema, held));
  const auto [entry, is_new] = left_over_.try_emplace(std::move(applied), nullptr);
  if (!is_new) return entry->second;
  JsonNode* node = tree_.Add(Kind::kObject);
  if (const auto place = places_.find(schema); place != places_.end()) {
    Place copy = place->second;
    places_.emplace(node, std::move(copy));
  }
  if (properties != nullptr) LeftOverMembers(entry->first, node);
  if (items != nullptr) RETURN_IF_ERROR(LeftOverItems(entry->first, node));
  entry->second = node;
  return node;
}

// The schema that a dynamic reference means, which is only known here when one schema of the
// document has the anchor.
absl::Status SchemaDocument::CheckDynamic(const JsonNode* schema, const JsonNode* target,
                                          std::string_view reference) const {
  const JsonNode* anchor = target->is(Kind::kObject) ? target->Find("$dynamicAnchor") : nullptr;
  const size_t hash = reference.find('#');
  const bool is_dynamic = anchor != nullptr && hash != std::string_view::npos &&
                          reference.substr(hash + 1) == anchor->text;
  if (!is_dynamic) return absl::OkStatus();  // as $ref
  const auto count = std::count_if(dynamic_anchors_.begin(), dynamic_anchors_.end(),
                                   [&](const std::string& name) { return name == anchor->text; });
  if (count <= 1) return absl::OkStatus();
  return Refusal(schema, "$dynamicRef", "more than one schema has this anchor");
}

}  // namespace tessera::grammar
