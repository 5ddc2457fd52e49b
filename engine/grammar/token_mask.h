// Which tokens may be drawn, a bit each: a row of SampleArgs::masks (kernels/ops.h) on the host.
#ifndef TESSERA_ENGINE_GRAMMAR_TOKEN_MASK_H_
#define TESSERA_ENGINE_GRAMMAR_TOKEN_MASK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "engine/types.h"

namespace tessera {

// Immutable; sequences that draw from the same set share one.
class TokenMask {
 public:
  // Allows `ids`; those outside [0, vocab_size) are ignored.
  TokenMask(absl::Span<const int32_t> ids, int32_t vocab_size);
  // `words`: [MaskWords(vocab_size)].
  explicit TokenMask(std::vector<int32_t> words);

  const std::vector<int32_t>& words() const { return words_; }  // [MaskWords(vocab_size)]

  friend bool operator==(const TokenMask& a, const TokenMask& b) {
    return a.hash_ == b.hash_ && a.words_ == b.words_;
  }

 private:
  std::vector<int32_t> words_;
  size_t hash_;  // makes most comparisons short
};

// The mask of allowed_token_ids; null: every token is allowed.
std::shared_ptr<const TokenMask> MaskOf(const SamplingParams& sampling, int32_t vocab_size);

}  // namespace tessera

#endif  // TESSERA_ENGINE_GRAMMAR_TOKEN_MASK_H_
