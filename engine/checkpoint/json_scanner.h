// A strict JSON reader for untrusted headers: no document tree, no recursion beyond a fixed depth,
// memory only for the strings asked for.
#ifndef TESSERA_ENGINE_CHECKPOINT_JSON_SCANNER_H_
#define TESSERA_ENGINE_CHECKPOINT_JSON_SCANNER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tessera {

// Walks over a text from left to right. Errors say what was expected and at which byte; after an
// error the position is undefined. The text must outlive the scanner.
class JsonScanner {
 public:
  explicit JsonScanner(std::string_view text) : text_(text) {}

  size_t position() const { return position_; }
  bool at_end() const { return position_ == text_.size(); }
  // The next byte that is no white space; '\0' at the end.
  char Peek();

  // Consumes white space and then exactly this byte.
  absl::Status Expect(char byte);
  // Consumes white space and the byte when it is there.
  bool Accept(char byte);
  // Reads a string of at most max_bytes decoded bytes: valid UTF-8, no control characters, escapes
  // decoded, no lone surrogates.
  absl::Status ReadString(size_t max_bytes, std::string& value);
  // Reads an integer of 0 to 2^53 written in plain digits.
  absl::Status ReadUnsigned(int64_t& value);
  // Checks and skips one value of any kind.
  absl::Status SkipValue() { return SkipValue(kMaxDepth); }

  // An error at the current position.
  absl::Status Error(std::string_view what) const;

 private:
  static constexpr int kMaxDepth = 16;

  void SkipSpace();
  absl::Status SkipValue(int depth);
  absl::Status SkipObject(int depth);
  absl::Status SkipArray(int depth);
  absl::Status SkipNumber();
  absl::Status SkipWord(std::string_view word);
  // Digits at the position; false when there is none.
  bool SkipDigits();
  // A string without the limit and, when value is null, without storing it.
  absl::Status ScanString(size_t max_bytes, std::string* value);
  absl::Status ScanEscape(std::string* value);
  absl::Status ScanUtf8(std::string* value);
  absl::Status ReadHex4(uint32_t& value);

  std::string_view text_;
  size_t position_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_CHECKPOINT_JSON_SCANNER_H_
