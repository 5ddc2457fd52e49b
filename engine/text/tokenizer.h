// Text to token ids and back, as the Qwen models were trained: added tokens are cut out of the raw
// text, what lies between them is normalised (NFC), added tokens that want normalised text are cut
// out of that, and the rest is split by the Qwen pattern and byte-pair encoded. No token is added
// at the beginning or the end.
#ifndef TESSERA_ENGINE_TEXT_TOKENIZER_H_
#define TESSERA_ENGINE_TEXT_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "engine/text/added_token_matcher.h"
#include "engine/text/byte_pair_encoder.h"
#include "engine/text/pretokenizer.h"
#include "engine/text/tokenizer_file.h"

namespace tessera {

struct EncodeOptions {
  // False for text that a user wrote: "<|im_end|>" in it becomes ordinary characters, never the
  // control token.
  bool parse_added_tokens = false;
};

// A part of one document and whether it may contain control tokens.
struct TextSegment {
  std::string_view text;
  bool trusted = false;
};

// Immutable; one instance serves any number of threads.
class Tokenizer {
 public:
  // Reads tokenizer.json and, where it exists, tokenizer_config.json in `model_dir`. NotFound
  // without a tokenizer.json, InvalidArgument for everything else that is wrong with the files: one
  // line that names the file and the key.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::string& model_dir);

  // The same from memory.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Parse(const TokenizerSources& sources);

  // For models driven by token ids alone: every token stands for nothing, text encodes to nothing
  // of use.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> WithoutText();

  // Any bytes are accepted: an invalid UTF-8 sequence is encoded as U+FFFD (one per maximal
  // subpart). O(n log n) in the length of the text. Errors are those of Pcre2Failure: out of
  // memory, or a fault in a library.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, EncodeOptions options) const;

  // Encodes the concatenation of `segments` as one document. An added token is recognised only
  // where it lies wholly inside one trusted segment (and, if it wants normalised text, that of this
  // segment alone); otherwise segment borders have no effect, so
  // the ids are those of the whole text as long as the untrusted parts take no part in spelling an
  // added token.
  absl::StatusOr<std::vector<int32_t>> EncodeSegments(std::span<const TextSegment> segments) const;

  // The bytes a token stands for, not necessarily valid UTF-8 alone. Empty for ids the tokenizer
  // does not define: negative ones and the padding at the end of a model's vocabulary. Valid as
  // long as the tokenizer.
  std::string_view TokenBytes(int32_t id) const;

  // The text of `ids`, always valid UTF-8: invalid sequences become U+FFFD (one per maximal
  // subpart). `skip_special` leaves out the tokens for which IsSpecial() holds.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;

  // The id of an added token by its exact text, e.g. "<|im_end|>".
  std::optional<int32_t> TokenId(std::string_view added_token_text) const;

  // Whether `id` is an added token marked special (<|im_end|> is, <think> is not).
  bool IsSpecial(int32_t id) const { return special_ids_.contains(id); }

  // The token that ends a text, by tokenizer_config.json; -1 if that names none.
  int32_t eos_token_id() const { return eos_token_id_; }
  // Whether `id` is an added token: no part of a text that users or models spell.
  bool IsAdded(int32_t id) const { return added_token_ids_.contains(id); }

  // One past the largest id the tokenizer defines. A model's logits may be wider (padding).
  int32_t vocab_size() const { return static_cast<int32_t>(token_offsets_.size()) - 1; }

 private:
  Tokenizer(TokenizerDefinition definition, std::unique_ptr<const Pretokenizer> pretokenizer);

  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Create(TokenizerDefinition definition);

  // Encodes what lies between two added tokens.
  absl::Status EncodeStretch(std::string_view raw, std::vector<int32_t>* ids) const;

  // The segments of one document, cut at added tokens.
  class Cutter;

  std::string token_bytes_;
  std::vector<uint32_t> token_offsets_;  // token i is token_bytes_[offsets[i], offsets[i + 1])
  BytePairEncoder encoder_;
  std::unique_ptr<const Pretokenizer> pretokenizer_;
  AddedTokenMatcher matcher_;
  std::optional<AddedTokenMatcher> normalized_matcher_;  // most models have no such tokens
  int32_t eos_token_id_;
  absl::flat_hash_map<std::string, int32_t> added_ids_;
  absl::flat_hash_set<int32_t> added_token_ids_;
  absl::flat_hash_set<int32_t> special_ids_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_TOKENIZER_H_
