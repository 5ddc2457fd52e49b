// UTF-8: where characters end, whether they are valid, and what they are.
#ifndef TESSERA_ENGINE_TEXT_UTF8_H_
#define TESSERA_ENGINE_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// What stands at the start of a byte string.
struct Utf8Unit {
  enum class Kind {
    kCharacter,   // `length` bytes are one character
    kInvalid,     // `length` bytes (1 to 3) are a maximal subpart of no character
    kIncomplete,  // all `length` bytes (1 to 3) begin a character that more bytes could complete
  };
  Kind kind;
  size_t length;
};

// Requires non-empty `bytes`.
Utf8Unit NextUtf8Unit(std::string_view bytes);

// The code point of a complete character as delimited by NextUtf8Unit.
char32_t DecodeUtf8Character(std::string_view character);

// Appends the character of a scalar value (not a surrogate, at most U+10FFFF).
void AppendUtf8(char32_t code_point, std::string* text);

// Number of leading bytes below 0x80.
size_t AsciiPrefixLength(std::string_view bytes);

bool IsValidUtf8(std::string_view bytes);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_UTF8_H_
