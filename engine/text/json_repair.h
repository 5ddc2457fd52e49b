// Walks over one JSON value as models write it, while its text arrives, and writes JSON.
#ifndef TESSERA_ENGINE_TEXT_JSON_REPAIR_H_
#define TESSERA_ENGINE_TEXT_JSON_REPAIR_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// What jinja::ParseJson accepts is written as it is, to the byte. What has one meaning only is
// mended: control characters within strings, escape sequences that JSON lacks (a lone surrogate
// becomes U+FFFD), strings in single quotes, keys without quotes, Python's True, False, None and
// tuples, any case of true, false and null, commas in front of a closing bracket, a plus sign,
// leading zeros and points without digits beside them. Looks at each byte a bounded number of
// times.
class JsonRepair {
 public:
  enum class Event : uint8_t {
    kNone,      // moved on
    kKey,       // json() from token() on is a whole key of an object, quotes included
    kBegin,     // a value begins at position() and at the end of json()
    kEnd,       // a value ended before position(); json() ends with it
    kNeedMore,  // the text so far is used up, but for what is incomplete
    kBroken,    // what stands at position() makes this no JSON; asking again says so again
  };

  // `text`: all of it so far; it only grows between calls. `at_end`: there will be no more. Not to
  // be called after kEnd with depth() 0.
  Event Next(std::string_view text, bool at_end);

  // Whether all open containers may end here, as if their brackets stood here.
  bool CanClose() const;
  // Ends the innermost one. Requires CanClose() and depth() > 0.
  Event Close();

  // Bytes of the text walked over: whole characters, escape sequences, words and numbers.
  size_t position() const { return at_; }
  const std::string& json() const { return json_; }
  size_t token() const { return token_; }
  // Containers that are open; with kBegin and kEnd those around the value.
  size_t depth() const { return closers_.size(); }

 private:
  enum class State : uint8_t {
    kValue,
    kValueBegun,
    kFirstItem,
    kItem,  // behind a comma
    kFirstKey,
    kKey,  // behind a comma
    kColon,
    kAfterValue,
    kBareKey,
    kKeyString,
    kString,
    kScalar,
  };
  enum class Unit : uint8_t { kTaken, kIncomplete, kInvalid };

  void SkipSpace(std::string_view text);
  Event AtMark(char mark);
  Event BeginKey(char mark);
  Event BeginValue(char first);
  Event InsideValue(char first);
  Event CloseContainer();
  Event WalkString(std::string_view text);
  Event WalkScalar(std::string_view text, bool at_end);
  Event WalkBareKey(std::string_view text);
  // Each takes what stands at position() within a string.
  Unit TakeCharacter(std::string_view text);
  Unit TakeEscape(std::string_view text);
  Unit TakeUnicodeEscape(std::string_view text);
  void Take(std::string_view text, size_t count);  // as it is
  void FlushComma();

  std::string json_;
  std::string comma_;  // one that is not written yet, with the white space behind it
  size_t at_ = 0;
  size_t token_ = 0;
  size_t word_end_ = 0;  // of a scalar or a bare key, as far as it is known
  char quote_ = '"';
  State state_ = State::kValue;
  std::vector<char> closers_;  // of the open containers, as the text has them
};

// The whole text as one JSON value; nullopt if it is none.
std::optional<std::string> RepairJson(std::string_view text);

// Appends `text` as the inside of a JSON string, as Python's json.dumps(ensure_ascii=False) writes
// it, up to the first character that is not whole or no UTF-8. Returns how many bytes it took.
size_t AppendJsonEscaped(std::string_view text, std::string* json);
// Whether `text` begins with the beginning of a character that more bytes could make whole.
bool IsPartOfCharacter(std::string_view text);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_JSON_REPAIR_H_
