// One JSON schema: where its parts are, what its references mean, and what each part says.
#ifndef TESSERA_ENGINE_GRAMMAR_SCHEMA_DOCUMENT_H_
#define TESSERA_ENGINE_GRAMMAR_SCHEMA_DOCUMENT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "engine/grammar/json_tree.h"
#include "engine/grammar/schema_types.h"

namespace tessera::grammar {

// A schema, or everything that it does not accept.
struct Claim {
  const JsonNode* schema = nullptr;
  bool negated = false;
  friend bool operator==(const Claim& a, const Claim& b) {
    return a.schema == b.schema && a.negated == b.negated;
  }
  friend bool operator<(const Claim& a, const Claim& b) {
    return std::pair(a.schema, a.negated) < std::pair(b.schema, b.negated);
  }
};
// All of these hold. Sorted, each once.
using Claims = std::vector<Claim>;

// Claims that hold of the same value, for questions about them.
struct HeldClaims {
  explicit HeldClaims(Claims all);

  Claims claims;                              // sorted
  absl::flat_hash_set<std::string> required;  // names that some of them ask for
};

// What one claim says, apart from the keywords that look into values of one type.
struct Facts {
  bool impossible = false;
  uint8_t types = kAllTypes;
  bool integer = false;                      // numbers are integers
  std::vector<Claim> also;                   // these hold, too
  std::vector<std::vector<Claims>> choices;  // of each list at least one entry holds
  bool has_keywords = false;                 // that look into values
};

class SchemaDocument {
 public:
  // A node of ours among those of the document may have keywords that no document can have.
  static constexpr std::string_view kStrings = "=strings";     // the value is one of these
  static constexpr std::string_view kNotStrings = "!strings";  // … none of these
  static constexpr std::string_view kNumbers = "=numbers";
  static constexpr std::string_view kNotNumbers = "!numbers";
  static constexpr std::string_view kBooleans = "=booleans";
  static constexpr std::string_view kNotPattern = "!pattern";
  static constexpr std::string_view kNotMultiple = "!multipleOf";
  static constexpr std::string_view kFraction = "!integer";

  static absl::StatusOr<std::unique_ptr<SchemaDocument>> Read(std::string_view text);

  const JsonNode* root() const { return root_; }
  const JsonNode* any() const { return any_; }          // the schema `true`
  const JsonNode* nothing() const { return nothing_; }  // the schema `false`
  const JsonNode* object() const { return object_; }    // {"type": "object"}
  JsonTree& tree() { return tree_; }

  // Whether some schema has unevaluatedProperties or unevaluatedItems.
  bool looks_back() const { return looks_back_; }
  // A keyword of a schema, null without it.
  const JsonNode* Keyword(const JsonNode* schema, std::string_view name) const;
  absl::StatusOr<const Facts*> FactsOf(const Claim& claim);
  // What unevaluatedProperties and unevaluatedItems of a schema come to where `held` is all that
  // is known to hold: a schema with properties and items in their place. Null without them.
  absl::StatusOr<const JsonNode*> LeftOver(const JsonNode* schema, const HeldClaims& held);
  // `oneOf` is read as anyOf whose branches must not overlap. For these nodes it is spelled out:
  // one branch and none of the others.
  void set_exact(absl::flat_hash_set<const JsonNode*> nodes) {
    exact_ = std::move(nodes);
    facts_.clear();
  }

  std::string PointerOf(const JsonNode* node) const;
  absl::Status Refusal(const JsonNode* schema, std::string_view keyword,
                       std::string_view why) const;

 private:
  SchemaDocument() = default;
  friend class FactReader;

  struct Place {
    const JsonNode* parent = nullptr;
    std::string name;
    const JsonNode* resource = nullptr;  // the schema with the nearest $id
  };

  void Index();
  void IndexNode(const JsonNode* node);
  absl::StatusOr<const JsonNode*> Resolve(const JsonNode* schema, const std::string& reference);
  absl::StatusOr<std::vector<const JsonNode*>> InPlace(const JsonNode* schema,
                                                       const HeldClaims& held);
  // `schema`, and what it applies to its value directly or through others.
  absl::StatusOr<std::vector<const JsonNode*>> Applied(const JsonNode* schema,
                                                       const HeldClaims& held);
  void LeftOverMembers(const std::vector<const JsonNode*>& applied, JsonNode* node);
  absl::Status LeftOverItems(const std::vector<const JsonNode*>& applied, JsonNode* node);
  absl::Status CheckDynamic(const JsonNode* schema, const JsonNode* target,
                            std::string_view reference) const;

  JsonTree tree_;
  const JsonNode* root_ = nullptr;
  const JsonNode* any_ = nullptr;
  const JsonNode* nothing_ = nullptr;
  const JsonNode* object_ = nullptr;
  absl::flat_hash_map<const JsonNode*, Place> places_;
  absl::flat_hash_map<const JsonNode*, std::string> ids_;  // absolute, of resources
  absl::flat_hash_map<std::string, const JsonNode*> resources_;
  std::map<std::pair<const JsonNode*, std::string>, const JsonNode*> anchors_;
  std::vector<std::string> dynamic_anchors_;
  bool looks_back_ = false;
  std::map<std::vector<const JsonNode*>, const JsonNode*> left_over_;  // by what was applied
  absl::flat_hash_set<const JsonNode*> ours_;
  absl::flat_hash_set<const JsonNode*> exact_;
  std::map<Claim, std::unique_ptr<Facts>> facts_;
};

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_SCHEMA_DOCUMENT_H_
