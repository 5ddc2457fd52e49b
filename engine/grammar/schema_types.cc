#include "engine/grammar/schema_types.h"

namespace tessera::grammar {

uint8_t TypeOf(const JsonNode& value) {
  switch (value.kind) {
    case JsonNode::Kind::kNull:
      return kNullType;
    case JsonNode::Kind::kFalse:
    case JsonNode::Kind::kTrue:
      return kBooleanType;
    case JsonNode::Kind::kNumber:
      return kNumberType;
    case JsonNode::Kind::kString:
      return kStringType;
    case JsonNode::Kind::kArray:
      return kArrayType;
    case JsonNode::Kind::kObject:
      break;
  }
  return kObjectType;
}

const char* NameOf(uint8_t type) {
  switch (type) {
    case kNullType:
      return "null";
    case kBooleanType:
      return "boolean";
    case kNumberType:
      return "number";
    case kStringType:
      return "string";
    case kArrayType:
      return "array";
    default:
      return "object";
  }
}

uint8_t TypeNamed(std::string_view name) {
  if (name == "integer") return kNumberType;
  for (int32_t bit = 1; bit < kAllTypes; bit *= 2) {
    if (name == NameOf(static_cast<uint8_t>(bit))) return static_cast<uint8_t>(bit);
  }
  return 0;
}

}  // namespace tessera::grammar
