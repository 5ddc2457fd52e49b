// Characters whose upper or title case is more than one character.
#ifndef TESSERA_ENGINE_TEXT_JINJA_SPECIAL_CASING_H_
#define TESSERA_ENGINE_TEXT_JINJA_SPECIAL_CASING_H_

#include <cstdint>
#include <string_view>

namespace tessera::jinja {

struct SpecialCasing {
  int32_t code_point;
  std::string_view upper;  // UTF-8
  std::string_view title;
};

// Null for all other characters.
const SpecialCasing* FindSpecialCasing(int32_t code_point);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_SPECIAL_CASING_H_
