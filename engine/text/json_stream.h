// Walks over one JSON value while its text arrives.
#ifndef TESSERA_ENGINE_TEXT_JSON_STREAM_H_
#define TESSERA_ENGINE_TEXT_JSON_STREAM_H_

#include <cstddef>
#include <string_view>
#include <vector>

namespace tessera {

// Accepts exactly what jinja::ParseJson accepts. Looks at each byte a bounded number of times.
class JsonStream {
 public:
  enum class Event {
    kNone,      // moved on
    kKey,       // [token(), position()) is a whole key, quotes included, of an object
    kBegin,     // a value begins at position()
    kEnd,       // a value ended before position()
    kNeedMore,  // the text so far is used up, but for what is incomplete
    kBroken,    // what stands at position() makes this no JSON
  };

  // `text`: all of it so far; it only grows between calls. Not to be called after kBroken, nor
  // after kEnd with depth() 0.
  Event Next(std::string_view text);

  // Bytes walked over: whole characters, escape sequences, words and numbers.
  size_t position() const { return at_; }
  size_t token() const { return token_; }
  // Containers that are open; with kBegin and kEnd those around the value.
  size_t depth() const { return closers_.size(); }

 private:
  enum class State {
    kValue,
    kValueBegun,
    kFirstItem,
    kFirstKey,
    kKey,
    kColon,
    kAfterValue,
    kKeyString,
    kString,
    kScalar,
  };

  Event AtMark(char mark);
  Event BeginValue();
  Event InsideValue(char first);
  Event CloseContainer();
  Event WalkString(std::string_view text);
  Event WalkScalar(std::string_view text);

  size_t at_ = 0;
  size_t token_ = 0;
  size_t scalar_end_ = 0;
  State state_ = State::kValue;
  std::vector<char> closers_;  // of the open containers
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_JSON_STREAM_H_
