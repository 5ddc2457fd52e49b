// Unicode normalisation form C with the character data of Unicode 9.0, which the reference
// implementation of the Qwen tokenizer uses: combining marks assigned later count as starters
// (combining class 0), and compositions added later are not made. Normalised text therefore never
// changes with the version of the Unicode library.
#ifndef TESSERA_ENGINE_TEXT_NFC_H_
#define TESSERA_ENGINE_TEXT_NFC_H_

#include <string>
#include <string_view>

namespace tessera {

// Returns NFC of `text`, which must be valid UTF-8: `text` itself when nothing changes, otherwise a
// view of `*storage`. Time O(n log n) for any input.
std::string_view NormalizeNfc(std::string_view text, std::string* storage);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_NFC_H_
