// The printable stand-ins for bytes in byte-level vocabularies (Radford et al. 2019, GPT-2): a
// printable Latin-1 byte stands for itself, the others take the code points from U+0100 upwards.
#ifndef TESSERA_ENGINE_TEXT_BYTE_ALPHABET_H_
#define TESSERA_ENGINE_TEXT_BYTE_ALPHABET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// Immutable.
class ByteAlphabet {
 public:
  ByteAlphabet();

  // The character, in UTF-8, that stands for `byte`.
  std::string_view Spelling(uint8_t byte) const { return spelling_[byte]; }

  // Appends the bytes that `token` (valid UTF-8) stands for. A token with a character outside the
  // alphabet stands for its own text.
  void AppendBytes(std::string_view token, std::string* bytes) const;

 private:
  static constexpr size_t kEnd = 0x144;  // one past the last code point of the alphabet

  std::array<std::string, 256> spelling_;
  std::array<int16_t, kEnd> byte_of_;  // -1: not in the alphabet
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_BYTE_ALPHABET_H_
