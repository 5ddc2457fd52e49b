#include "engine/grammar/schema_document.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/files/message.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

using Kind = JsonNode::Kind;

// Not schemas, whatever they look like.
bool HoldsData(std::string_view keyword) {
  return keyword == "const" || keyword == "enum" || keyword == "default" || keyword == "examples";
}

// RFC 3986, section 5.2, as far as schemas need it: no dot segments.
std::string Join(const std::string& base, std::string_view reference) {
  if (reference.empty()) return base;
  const size_t colon = reference.find(':');
  if (colon != std::string_view::npos && colon < reference.find_first_of("/?#")) {
    return std::string(reference);
  }
  const size_t scheme = base.find("://");
  if (reference[0] == '/') {
    const size_t path = scheme == std::string::npos ? 0 : base.find('/', scheme + 3);
    return Message(base.substr(0, std::min(path, base.size())), reference);
  }
  const size_t slash = base.rfind('/');
  const bool has_path =
      slash != std::string::npos && (scheme == std::string::npos || slash > scheme + 2);
  if (!has_path) return Message(base, scheme == std::string::npos ? "" : "/", reference);
  return Message(base.substr(0, slash + 1), reference);
}

std::string Unescaped(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size();
    if (escape && absl::ascii_isxdigit(static_cast<uint8_t>(text[i + 1])) &&
        absl::ascii_isxdigit(static_cast<uint8_t>(text[i + 2]))) {
      out.append(absl::HexStringToBytes(std::string(text.substr(i + 1, 2))));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SchemaDocument>> SchemaDocument::Read(std::string_view text) {
  std::unique_ptr<SchemaDocument> document(new SchemaDocument);
  ASSIGN_OR_RETURN(document->root_, ReadJson(text, &document->tree_));
  document->any_ = document->tree_.Add(Kind::kTrue);
  document->nothing_ = document->tree_.Add(Kind::kFalse);
  JsonNode* object = document->tree_.Add(Kind::kObject);
  JsonNode* name = document->tree_.Add(Kind::kString);
  name->text = "object";
  object->members.emplace_back("type", name);
  document->object_ = object;
  document->Index();
  return document;
}

void SchemaDocument::Index() {
  places_[root_] = {.resource = root_};
  std::vector<const JsonNode*> todo = {root_};
  while (!todo.empty()) {
    const JsonNode* node = todo.back();
    todo.pop_back();
    IndexNode(node);
    const JsonNode* resource = places_[node].resource;
    for (const auto& [name, child] : node->members) {
      places_[child] = {.parent = node, .name = name, .resource = resource};
      // What is data holds no names.
      if (!HoldsData(name)) todo.push_back(child);
    }
    for (size_t i = 0; i < node->items.size(); ++i) {
      places_[node->items[i]] = {.parent = node, .name = Message(i), .resource = resource};
      todo.push_back(node->items[i]);
    }
  }
}

void SchemaDocument::IndexNode(const JsonNode* node) {
  Place& place = places_[node];
  const JsonNode* id = node->Find("$id");
  if (node == root_ || (id != nullptr && id->is(Kind::kString) && !id->text.starts_with('#'))) {
    const std::string base = node == root_ ? "" : ids_[place.resource];
    std::string absolute = id != nullptr && id->is(Kind::kString) ? Join(base, id->text) : base;
    if (absolute.ends_with('#')) absolute.pop_back();
    place.resource = node;
    ids_[node] = absolute;
    resources_.emplace(absolute, node);
  }
  for (const char* name : {"$anchor", "$dynamicAnchor"}) {
    const JsonNode* anchor = node->Find(name);
    if (anchor == nullptr || !anchor->is(Kind::kString)) continue;
    anchors_.emplace(std::pair(place.resource, anchor->text), node);
    if (name[1] == 'd') dynamic_anchors_.push_back(anchor->text);
  }
  looks_back_ = looks_back_ || node->Find("unevaluatedProperties") != nullptr ||
                node->Find("unevaluatedItems") != nullptr;
}

absl::StatusOr<const JsonNode*> SchemaDocument::Resolve(const JsonNode* schema,
                                                        const std::string& reference) {
  const auto refusal = [&] {
    return Refusal(schema, "$ref",
                   Message("\"", reference.substr(0, 100), "\" is not in the schema"));
  };
  const size_t hash = std::min(reference.find('#'), reference.size());
  const std::string fragment = Unescaped(reference.substr(std::min(hash + 1, reference.size())));
  const auto place = places_.find(schema);
  const JsonNode* resource = place == places_.end() ? root_ : place->second.resource;
  if (hash > 0) {
    const auto found = resources_.find(Join(ids_[resource], reference.substr(0, hash)));
    if (found == resources_.end()) return refusal();
    resource = found->second;
  }
  if (fragment.empty()) return resource;
  if (fragment[0] != '/') {
    const auto found = anchors_.find({resource, fragment});
    if (found == anchors_.end()) return refusal();
    return found->second;
  }
  const JsonNode* node = resource;
  const std::vector<std::string> parts = absl::StrSplit(fragment.substr(1), '/');
  for (const std::string& part : parts) {
    const std::string name = absl::StrReplaceAll(part, {{"~1", "/"}, {"~0", "~"}});
    uint32_t index = 0;
    if (node->is(Kind::kArray) && absl::SimpleAtoi(name, &index) && index < node->items.size()) {
      node = node->items[index];
    } else {
      node = node->Find(name);
    }
    if (node == nullptr) return refusal();
  }
  return node;
}

const JsonNode* SchemaDocument::Keyword(const JsonNode* schema, std::string_view name) const {
  const bool is_ours = name[0] == '=' || name[0] == '!';
  if (is_ours && !ours_.contains(schema)) return nullptr;
  return schema->Find(name);
}

std::string SchemaDocument::PointerOf(const JsonNode* node) const {
  std::string pointer;
  for (auto place = places_.find(node); place != places_.end() && place->second.parent != nullptr;
       place = places_.find(place->second.parent)) {
    pointer = Message("/", PointerPart(place->second.name), pointer);
  }
  return pointer;
}

absl::Status SchemaDocument::Refusal(const JsonNode* schema, std::string_view keyword,
                                     std::string_view why) const {
  constexpr size_t kMaxShown = 200;
  std::string where = PointerOf(schema);
  if (!keyword.empty()) where += Message("/", keyword);
  if (where.size() > kMaxShown) where = Message("…", where.substr(where.size() - kMaxShown));
  return absl::InvalidArgumentError(Message("#", where, ": ", why));
}

}  // namespace tessera::grammar
