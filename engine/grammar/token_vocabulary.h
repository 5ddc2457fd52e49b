// The tokens of a model as bytes, laid out for walking an automaton over all of them.
#ifndef TESSERA_ENGINE_GRAMMAR_TOKEN_VOCABULARY_H_
#define TESSERA_ENGINE_GRAMMAR_TOKEN_VOCABULARY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "engine/grammar/token_mask.h"

namespace tessera::grammar {

// A trie in depth-first order. Node i's subtree is [i, end).
class TokenTrie {
 public:
  struct Node {
    uint8_t byte = 0;
    uint8_t max_code_points = 0;  // of the tokens in the subtree; see TokenVocabulary::slice
    uint16_t depth = 0;           // bytes from the root, this one included
    int32_t end = 0;
    int32_t token = -1;  // that ends here
  };
  struct Entry {
    std::string_view bytes;  // not empty
    int32_t token = 0;
    uint8_t code_points = 0;
  };

  TokenTrie() = default;
  // Of tokens that are the same bytes, the first counts.
  explicit TokenTrie(std::vector<Entry> entries);

  const std::vector<Node>& nodes() const { return nodes_; }
  // Bytes of the longest token that `bytes` begin with; 0: none.
  int32_t LongestMatch(absl::Span<const uint16_t> symbols, int32_t* token) const;

 private:
  std::vector<Node> nodes_;
};

// Immutable; any number of threads.
//
// A token of whole code points that are all "plain" (U+0020 to U+007E without `"` and `\`, and
// everything from U+0080 on) belongs to a slice by their number: inside of strings, whole slices
// are allowed or not.
class TokenVocabulary {
 public:
  static constexpr int32_t kMaxSlice = 32;

  struct Options {
    int32_t vocab_size = 0;              // of the model's logits
    std::vector<int32_t> end_token_ids;  // end a text
    // Bytes of a token; empty: the grammar's bytes never use it (control tokens, padding).
    std::function<std::string_view(int32_t)> bytes;
  };
  explicit TokenVocabulary(const Options& options);

  int32_t vocab_size() const { return vocab_size_; }
  const std::vector<int32_t>& end_token_ids() const { return end_token_ids_; }
  std::string_view bytes(int32_t token) const;
  int32_t longest_token() const { return longest_token_; }  // bytes
  // Every byte is a token, so that whatever text is owed can be written.
  bool has_all_bytes() const { return has_all_bytes_; }

  // All tokens that are bytes: neither control tokens nor padding.
  const std::shared_ptr<const TokenMask>& texts() const { return texts_; }

  const TokenTrie& plain() const { return plain_; }  // tokens that belong to a slice
  const TokenTrie& other() const { return other_; }
  // Bits of the plain tokens of 1 to `n` code points, [MaskWords(vocab_size)]; n in
  // [1, kMaxSlice], kMaxSlice holds the longer ones, too.
  const std::vector<int32_t>& slice_up_to(int32_t n) const { return slices_[n - 1]; }

  // `symbols` as tokens, the longest first: never more than symbols. Symbols from 256 on are one
  // token each. -1: a byte that is no token.
  int32_t CountTokens(absl::Span<const uint16_t> symbols) const;
  // The first of these tokens, -1 as above; `symbols` is not empty.
  int32_t FirstToken(absl::Span<const uint16_t> symbols, int32_t* length) const;

 private:
  int32_t vocab_size_;
  std::vector<int32_t> end_token_ids_;
  std::vector<uint32_t> offsets_;  // [vocab_size + 1] into text_
  std::string text_;
  int32_t longest_token_ = 0;
  bool has_all_bytes_ = false;
  std::shared_ptr<const TokenMask> texts_;
  TokenTrie plain_;
  TokenTrie other_;
  std::vector<std::vector<int32_t>> slices_;
};

}  // namespace tessera::grammar

#endif  // TESSERA_ENGINE_GRAMMAR_TOKEN_VOCABULARY_H_
