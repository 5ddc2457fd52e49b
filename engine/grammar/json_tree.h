// A JSON document as a tree whose nodes stay where they are, with numbers as they are written.
#ifndef TESSERA_ENGINE_GRAMMAR_JSON_TREE_H_
#define TESSERA_ENGINE_GRAMMAR_JSON_TREE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::grammar {

struct JsonNode {
  enum class Kind : uint8_t { kNull, kFalse, kTrue, kNumber, kString, kArray, kObject };
  Kind kind = Kind::kNull;
  size_t number = 0;  // of the node in its tree, in the order in which they were added
  std::string text;   // a string's characters, a number as written
  std::vector<const JsonNode*> items;
  // In the order of the document; of keys that repeat, the last one's value.
  std::vector<std::pair<std::string, const JsonNode*>> members;

  bool is(Kind k) const { return kind == k; }
  bool is_bool() const { return kind == Kind::kFalse || kind == Kind::kTrue; }
  const JsonNode* Find(std::string_view key) const;  // null: none, or no object
};

// Owns nodes; those that are not from the document can be added.
class JsonTree {
 public:
  JsonNode* Add(JsonNode::Kind kind) {
    nodes_.push_back({.kind = kind, .number = nodes_.size()});
    return &nodes_.back();
  }

 private:
  std::deque<JsonNode> nodes_;
};

inline constexpr int32_t kMaxJsonDepth = 64;

// InvalidArgument for what is not one JSON text (RFC 8259) of valid UTF-8 and at most kMaxJsonDepth
// levels.
absl::StatusOr<const JsonNode*> ReadJson(std::string_view text, JsonTree* tree);

// A string as a JSON text writes it, without escapes that are not needed.
std::string QuotedJson(std::string_view text);
// What stands in a JSON pointer for a name (RFC 6901).
std::string PointerPart(std::string_view name);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_JSON_TREE_H_
