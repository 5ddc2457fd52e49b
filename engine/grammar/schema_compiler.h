// Rules of the values that schemas accept. See json_schema.h.
#ifndef TESSERA_ENGINE_GRAMMAR_SCHEMA_COMPILER_H_
#define TESSERA_ENGINE_GRAMMAR_SCHEMA_COMPILER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/schema_document.h"

namespace tessera::grammar {

// One way to satisfy claims: a value of one of `types` for which the keywords of `schemas` hold.
struct ValueShape {
  uint8_t types = kAllTypes;
  bool integer = false;
  std::vector<const JsonNode*> schemas;  // in the order of the document, each once
};

// Bounds on the size of something; max < 0: none.
struct SizeBounds {
  int64_t min = 0;
  int64_t max = -1;
};

class SchemaCompiler {
 public:
  SchemaCompiler(SchemaDocument* document, GrammarBuilder* builder)
      : document_(*document), builder_(*builder), budget_(builder->budget()) {}

  // The rule of the values that satisfy all of `claims`.
  absl::StatusOr<RuleId> ValuesOf(Claims claims);
  // Compiles what ValuesOf and this itself have referred to.
  absl::Status CompileAll();

  // Rules that have to be empty, and the list of `oneOf` that needs it.
  const std::vector<std::pair<RuleId, const JsonNode*>>& overlaps() const { return overlaps_; }

 private:
  struct Work {
    Claims todo;
    Claims seen;
    ValueShape shape;
    std::vector<std::vector<Claims>> choices;
  };
  // One kind of member that is not declared: its names and the rule of its values.
  struct ExtraMember {
    Dfa names;
    RuleId values = 0;
  };
  struct DeclaredMember {
    std::string name;
    bool required = false;
    std::optional<RuleId> values;  // nothing: the member must not be there
  };
  struct ArrayShape {
    SizeBounds sizes;
    size_t num_prefix = 0;
    Claims rest;                 // of the items behind the prefix
    Claims special;              // of the items that `contains` asks for
    SizeBounds times{.min = 1};  // how many of these
  };
  struct Pattern {
    std::string text;
    Dfa dfa;
  };
  using Schemas = std::vector<const JsonNode*>;

  absl::Status Define(RuleId rule, const Claims& claims);
  absl::StatusOr<std::vector<ValueShape>> ShapesOf(const Claims& claims);
  absl::Status Advance(Work* work);
  absl::Status AddLeftOvers(Work* work);
  absl::Status CheckOneOf(const JsonNode* schema);

  absl::StatusOr<RuleId> TypeRule(uint8_t type, const ValueShape& shape);
  // The schemas with keywords that look into values of the type.
  Schemas Relevant(uint8_t type, const Schemas& schemas) const;
  absl::StatusOr<SizeBounds> Bounds(const Schemas& schemas, std::string_view min,
                                    std::string_view max) const;

  absl::StatusOr<Dfa> Booleans(const Schemas& schemas) const;
  absl::StatusOr<Dfa> Numbers(const Schemas& schemas, bool integer) const;
  absl::Status NarrowNumbers(const JsonNode* schema, std::vector<Dfa>* parts) const;
  absl::StatusOr<Dfa> NumberSet(const JsonNode* list, bool inside) const;
  absl::Status DefineString(RuleId rule, const Schemas& schemas);
  // The characters of strings; nothing: all of them.
  absl::StatusOr<std::optional<Dfa>> Texts(const Schemas& schemas, bool with_length) const;
  absl::Status NarrowTexts(const JsonNode* schema, std::vector<Dfa>* parts) const;
  absl::StatusOr<Dfa> TextSet(const JsonNode* list) const;

  absl::Status ReadContains(const JsonNode* schema, ArrayShape* shape) const;
  absl::StatusOr<ArrayShape> ReadArray(const Schemas& schemas) const;
  absl::StatusOr<RuleId> PrefixItem(const Schemas& schemas, size_t place);
  RuleId MoreItems(RuleId item, SizeBounds times);
  absl::Status DefineArray(RuleId rule, const Schemas& schemas);
  absl::Status DefineContaining(RuleId rule, const ArrayShape& shape);
  absl::Status DefineObject(RuleId rule, const Schemas& schemas);
  absl::StatusOr<std::vector<DeclaredMember>> Declared(const Schemas& schemas,
                                                       const std::optional<Dfa>& names);
  absl::StatusOr<std::vector<ExtraMember>> Extras(const Schemas& schemas,
                                                  const std::vector<DeclaredMember>& declared,
                                                  const std::optional<Dfa>& names);
  absl::StatusOr<std::optional<Dfa>> MemberNames(const Schemas& schemas);
  absl::StatusOr<std::vector<Pattern>> Patterns(const Schemas& schemas);
  absl::StatusOr<const Dfa*> PatternDfa(const JsonNode* schema, const std::string& pattern);
  absl::Status DefineMembers(RuleId rule, const std::vector<DeclaredMember>& declared,
                             const std::vector<ExtraMember>& extras, SizeBounds sizes);

  static Fragment Space(Nfa* nfa);
  static Fragment Between(char byte, Nfa* nfa);  // the byte with space around it

  SchemaDocument& document_;
  GrammarBuilder& builder_;
  BuildBudget* const budget_;
  std::map<Claims, RuleId> rules_;
  std::vector<std::pair<RuleId, Claims>> pending_;
  std::map<std::tuple<uint8_t, bool, Schemas>, RuleId> type_rules_;
  std::map<std::string, Dfa> patterns_;
  absl::flat_hash_map<const JsonNode*, bool> checked_;  // lists of oneOf
  std::vector<std::pair<RuleId, const JsonNode*>> overlaps_;
};

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_SCHEMA_COMPILER_H_
