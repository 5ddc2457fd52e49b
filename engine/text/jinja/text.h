// A string that knows which of its bytes were written by someone other than the template.
//
// A chat prompt mixes the template's own control tokens with text of users, tools and models. Only
// the former may become control tokens, so every string carries the byte ranges that came from
// outside, and every operation of the interpreter keeps them.
#ifndef TESSERA_ENGINE_TEXT_JINJA_TEXT_H_
#define TESSERA_ENGINE_TEXT_JINJA_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::jinja {

enum class Provenance { kTrusted, kUntrusted };

// Bytes [begin, end).
struct Span {
  size_t begin;
  size_t end;
  bool operator==(const Span&) const = default;
};

// UTF-8 bytes with sorted, disjoint, non-touching, non-empty untrusted spans. Immutable by habit.
class Text {
 public:
  Text() = default;
  explicit Text(std::string bytes, Provenance provenance = Provenance::kTrusted);
  Text(std::string bytes, std::vector<Span> untrusted);

  const std::string& bytes() const { return bytes_; }
  const std::vector<Span>& untrusted() const { return untrusted_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  // Whether any byte is untrusted.
  bool tainted() const { return !untrusted_.empty(); }
  // Bytes [begin, end), clamped to the text.
  Text Slice(size_t begin, size_t end) const;

 private:
  std::string bytes_;
  std::vector<Span> untrusted_;
};

class TextBuilder {
 public:
  void Append(std::string_view bytes, Provenance provenance = Provenance::kTrusted);
  void Append(const Text& text) { AppendRange(text, 0, text.size()); }
  void AppendRange(const Text& text, size_t begin, size_t end);
  size_t size() const { return bytes_.size(); }
  Text Build() &&;

 private:
  void MarkUntrusted(size_t begin, size_t end);

  std::string bytes_;
  std::vector<Span> untrusted_;
};

// One code point at a byte offset. Bytes that are not valid UTF-8 count as one character each, so
// that no input can derail an index computation.
struct CodePoint {
  int32_t value;  // -1 for an invalid byte
  size_t length;  // bytes, >= 1
};
CodePoint DecodeCodePoint(std::string_view bytes, size_t offset);

size_t CountCodePoints(std::string_view bytes);
// Byte offset of every code point, and bytes.size() last.
std::vector<size_t> CodePointOffsets(std::string_view bytes);

// What Python's str.isspace, str.isprintable and friends say.
bool IsSpace(int32_t code_point);
bool IsPrintable(int32_t code_point);
bool IsLetter(int32_t code_point);
bool IsDigit(int32_t code_point);
// Also numbers that are no decimal digits (str.isnumeric), and digits such as superscripts
// (str.isdigit).
bool IsNumeric(int32_t code_point);
bool IsDigitLike(int32_t code_point);
bool IsAlphanumeric(int32_t code_point);
bool IsCased(int32_t code_point);
bool IsUpper(int32_t code_point);
bool IsLower(int32_t code_point);

// Offsets of `bytes` without the surrounding characters that are in `characters` (code points), or
// without white space when `characters` is null.
struct StripSides {
  bool left = true;
  bool right = true;
};
Span StripRange(std::string_view bytes, const std::string* characters, StripSides sides);

// Case mapping as Python does it: one character may become several; provenance stays with it.
Text MapUpper(const Text& text);
Text MapLower(const Text& text);
Text MapFold(const Text& text);  // str.casefold
Text MapSwapCase(const Text& text);
// First letter of each word upper case, the rest lower case (Python's str.title).
Text MapTitle(const Text& text);
// First letter upper case, the rest lower case (Python's str.capitalize).
Text MapCapitalize(const Text& text);

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_TEXT_H_
