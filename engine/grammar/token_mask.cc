#include "engine/grammar/token_mask.h"

#include <utility>

#include "absl/hash/hash.h"
#include "kernels/core/bit_mask.h"

namespace tessera {

TokenMask::TokenMask(absl::Span<const int32_t> ids, int32_t vocab_size)
    : words_(MaskWords(vocab_size)) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size) AddToMask(words_.data(), id);
  }
  hash_ = absl::HashOf(words_);
}

TokenMask::TokenMask(std::vector<int32_t> words)
    : words_(std::move(words)), hash_(absl::HashOf(words_)) {}

std::shared_ptr<const TokenMask> MaskOf(const SamplingParams& sampling, int32_t vocab_size) {
  if (sampling.allowed_token_ids.empty()) return nullptr;
  return std::make_shared<const TokenMask>(sampling.allowed_token_ids, vocab_size);
}

}  // namespace tessera
