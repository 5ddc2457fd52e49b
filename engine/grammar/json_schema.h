// JSON Schema (2020-12) to grammar rules: the texts of the rules are valid documents.
//
// Members come in the order of `properties`, then those that are only required, then others.
// White space between tokens is at most eight characters. What cannot be enforced is refused with
// InvalidArgument that names it by JSON pointer, never ignored; keywords that JSON Schema does not
// know are annotations and have no effect. docs/user-guide.md has the list.
#ifndef TESSERA_ENGINE_GRAMMAR_JSON_SCHEMA_H_
#define TESSERA_ENGINE_GRAMMAR_JSON_SCHEMA_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/grammar/grammar.h"

namespace tessera::grammar {

struct SchemaText {
  std::string json;
  bool object_only = false;  // the document must be an object, whatever the schema says
  std::string name;          // what refusals begin with, not empty where there are several
};

// Makes the root of the rules of the schemas' documents.
using RootOf = std::function<RuleId(absl::Span<const RuleId> documents, GrammarBuilder* builder)>;

absl::StatusOr<std::shared_ptr<const Grammar>> CompileJsonSchemas(
    absl::Span<const SchemaText> schemas, const RootOf& root_of, BuildBudget* budget);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_JSON_SCHEMA_H_
