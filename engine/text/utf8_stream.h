// Repair of UTF-8. An invalid sequence becomes one U+FFFD per maximal subpart (Unicode 15.0 section
// 3.9, "U+FFFD Substitution of Maximal Subparts"; the rule of WHATWG and Rust), so a whole text and
// the same text cut into pieces at any byte are repaired to the same characters.
#ifndef TESSERA_ENGINE_TEXT_UTF8_STREAM_H_
#define TESSERA_ENGINE_TEXT_UTF8_STREAM_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace tessera {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Appends `bytes` with every invalid or incomplete sequence replaced by U+FFFD.
void AppendRepairedUtf8(std::string_view bytes, std::string* text);

// Repairs a byte stream as it arrives: text comes out in whole characters, an unfinished character
// (at most 3 bytes) waits for its rest. Not thread-safe: one stream, one owner.
class Utf8Stream {
 public:
  void Push(std::string_view bytes, std::string* text);

  // The stream has ended: an unfinished character becomes one U+FFFD. The object can be used again.
  void Finish(std::string* text);

  size_t pending_bytes() const { return pending_.size(); }

 private:
  std::string pending_;  // kIncomplete or empty
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_UTF8_STREAM_H_
