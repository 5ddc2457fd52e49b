// Turns a stream of generated tokens into text that is whole UTF-8 at every moment.
#ifndef TESSERA_ENGINE_TEXT_DETOKENIZER_H_
#define TESSERA_ENGINE_TEXT_DETOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8_stream.h"

namespace tessera {

struct DetokenizeOptions {
  bool skip_special = true;  // leave out tokens such as <|im_end|>
  // But not these: tags that somebody reads who comes behind.
  std::vector<int32_t> keep = {};
};

// What Push and Finish append, joined, equals Tokenizer::Decode of all ids (but for `keep`). One
// sequence, one detokenizer; not thread-safe. Copy it to fork a sequence.
class IncrementalDetokenizer {
 public:
  IncrementalDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, DetokenizeOptions options);

  // Appends the text that became final with `id`; nothing when the token ends within a character.
  // Bytes that can no longer become a character come out at once as U+FFFD.
  void Push(int32_t id, std::string* text);

  // Ends the sequence: an unfinished character becomes U+FFFD.
  void Finish(std::string* text);

  // Bytes of an unfinished character, 0 to 3.
  size_t pending_bytes() const { return stream_.pending_bytes(); }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  DetokenizeOptions options_;
  Utf8Stream stream_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_DETOKENIZER_H_
