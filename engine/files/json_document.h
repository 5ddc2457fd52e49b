// The reader of JSON from strangers, where the order of keys does not matter. Chat messages and
// tools, whose order a template shows to the model, have engine/text/jinja/json_parse.h.
#ifndef TESSERA_ENGINE_FILES_JSON_DOCUMENT_H_
#define TESSERA_ENGINE_FILES_JSON_DOCUMENT_H_

#include <simdjson.h>

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

// A parsed text; its elements live as long as it does. All fields of an object are there in the
// order of the text, with keys that are given twice.
class JsonDocument {
 public:
  static constexpr size_t kMaxDepth = 64;

  // INVALID_ARGUMENT says in one line what is wrong: text that is no JSON or no UTF-8, lone
  // surrogates, nesting deeper than kMaxDepth, numbers that no double can hold. Integers beyond 64
  // bits become doubles. Takes memory in proportion to the text, about ten times its size at most.
  static absl::StatusOr<JsonDocument> Parse(std::string_view text);

  simdjson::dom::element root() const { return root_; }

 private:
  JsonDocument() : parser_(std::make_unique<simdjson::dom::parser>()) {}
  simdjson::error_code Read(std::string_view text);

  std::unique_ptr<simdjson::dom::parser> parser_;
  simdjson::dom::element root_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_FILES_JSON_DOCUMENT_H_
