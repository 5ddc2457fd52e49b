// What the arguments of a tool may be, by its JSON schema.
#ifndef TESSERA_ENGINE_TEXT_FUNCTION_SCHEMA_H_
#define TESSERA_ENGINE_TEXT_FUNCTION_SCHEMA_H_

#include <set>
#include <string>
#include <string_view>

#include "engine/text/jinja/value.h"

namespace tessera {

// Understands what says a type: type, enum, const, anyOf, oneOf, allOf, $ref within the schema,
// nullable, and the keywords that only objects or arrays have. References may go in circles.
class FunctionSchema {
 public:
  // The function `name` of the request's tools, which may be no list at all.
  FunctionSchema(const jinja::Value& tools, std::string_view name);

  // Whether there is such a tool; true without any tools.
  bool declared() const { return declared_; }
  // False for a name that the schema does not have among its properties. True when it lists none.
  bool MayHave(std::string_view argument) const;
  // The names of JSON's types that an argument may have; empty if nothing says so.
  std::set<std::string> TypesOf(std::string_view argument) const;

 private:
  jinja::Value Resolve(const jinja::Value& schema) const;
  // The schema of an argument; undefined if there is none.
  // Each looks at no more than *steps schemas.
  jinja::Value FindProperty(const jinja::Value& schema, std::string_view argument,
                            int* steps) const;
  bool ListsProperties(const jinja::Value& schema, int* steps) const;
  void CollectTypes(const jinja::Value& schema, int* steps, std::set<std::string>* types) const;

  jinja::Value root_;
  bool declared_ = false;
  bool lists_properties_ = false;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_FUNCTION_SCHEMA_H_
