#include "engine/kv/kv_cache_manager.h"

#include <algorithm>

#include "kernels/core/status_macros.h"

namespace tessera {

KvCacheManager::KvCacheManager(const KvCacheOptions& options)
    : options_(options), hasher_(options.key), pool_(options.num_blocks) {
  TESSERA_CHECK(options.block_size > 0);
}

const BlockHash& KvCacheManager::HashOf(absl::Span<const int32_t> tokens, int32_t block,
                                        std::string_view salt, SequenceBlocks* sequence) const {
  std::vector<BlockHash>& hashes = sequence->hashes;
  while (static_cast<int32_t>(hashes.size()) <= block) {
    const auto begin = hashes.size() * options_.block_size;
    const BlockHash previous = hashes.empty() ? hasher_.Root(salt) : hashes.back();
    hashes.push_back(hasher_.Next(previous, tokens.subspan(begin, options_.block_size)));
  }
  return hashes[block];
}

int32_t KvCacheManager::Attach(absl::Span<const int32_t> tokens, std::string_view salt,
                               SequenceBlocks* sequence) {
  TESSERA_CHECK(sequence->blocks.empty() && !tokens.empty());
  if (!options_.enable_prefix_cache) return 0;
  const int32_t limit = static_cast<int32_t>(tokens.size() - 1) / options_.block_size;
  for (int32_t i = 0; i < limit; ++i) {
    const std::optional<BlockId> hit = pool_.Find(HashOf(tokens, i, salt, sequence));
    if (!hit.has_value()) break;
    pool_.Ref(*hit);
    sequence->blocks.push_back(*hit);
  }
  sequence->num_published = static_cast<int32_t>(sequence->blocks.size());
  return sequence->num_published * options_.block_size;
}

bool KvCacheManager::Reserve(int32_t num_tokens, SequenceBlocks* sequence) {
  const int32_t missing = BlocksFor(num_tokens) - static_cast<int32_t>(sequence->blocks.size());
  if (missing > pool_.num_available()) return false;
  for (int32_t i = 0; i < missing; ++i) sequence->blocks.push_back(*pool_.Allocate());
  return true;
}

void KvCacheManager::Commit(absl::Span<const int32_t> tokens, int32_t num_computed,
                            std::string_view salt, SequenceBlocks* sequence) {
  if (!options_.enable_prefix_cache) return;
  const int32_t full = num_computed / options_.block_size;
  for (int32_t& i = sequence->num_published; i < full; ++i) {
    pool_.Publish(sequence->blocks[i], HashOf(tokens, i, salt, sequence));
  }
}

bool KvCacheManager::Fork(const SequenceBlocks& parent, int32_t num_tokens, SequenceBlocks* child,
                          std::optional<BlockCopy>* copy) {
  TESSERA_CHECK(child->blocks.empty() &&
                BlocksFor(num_tokens) <= static_cast<int32_t>(parent.blocks.size()));
  const int32_t full = num_tokens / options_.block_size;
  copy->reset();
  if (num_tokens % options_.block_size != 0) {
    const std::optional<BlockId> own = pool_.Allocate();
    if (!own.has_value()) return false;
    *copy = BlockCopy{.from = parent.blocks[full], .to = *own};
    pool_.Ref(copy->value().from);
    pool_.Ref(copy->value().to);
  }
  for (int32_t i = 0; i < full; ++i) {
    pool_.Ref(parent.blocks[i]);
    child->blocks.push_back(parent.blocks[i]);
  }
  if (copy->has_value()) child->blocks.push_back(copy->value().to);
  child->hashes.assign(parent.hashes.begin(),
                       parent.hashes.begin() + std::min<size_t>(parent.hashes.size(), full));
  child->num_published = std::min(parent.num_published, full);
  return true;
}

void KvCacheManager::EndCopy(const BlockCopy& copy) {
  pool_.Unref(copy.from);
  pool_.Unref(copy.to);
}

void KvCacheManager::Release(SequenceBlocks* sequence) {
  // Last block first: the beginnings of prompts are shared most often and stay longest.
  while (!sequence->blocks.empty()) {
    pool_.Unref(sequence->blocks.back());
    sequence->blocks.pop_back();
  }
  sequence->num_published = 0;
}

}  // namespace tessera
