// The types of JSON values and their names in schemas.
#ifndef TESSERA_ENGINE_GRAMMAR_SCHEMA_TYPES_H_
#define TESSERA_ENGINE_GRAMMAR_SCHEMA_TYPES_H_

#include <cstdint>
#include <string_view>

#include "engine/grammar/json_tree.h"

namespace tessera::grammar {

// The types of JSON values, as bits.
enum SchemaType : uint8_t {
  kNullType = 1,
  kBooleanType = 2,
  kNumberType = 4,
  kStringType = 8,
  kArrayType = 16,
  kObjectType = 32,
  kAllTypes = 63,
};

uint8_t TypeOf(const JsonNode& value);
// Of one type.
const char* NameOf(uint8_t type);
// "integer" is kNumberType; 0: no such type.
uint8_t TypeNamed(std::string_view name);

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_SCHEMA_TYPES_H_
