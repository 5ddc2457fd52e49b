// The KV blocks of each sequence: prefix hits, growth, publication and release.
#ifndef TESSERA_ENGINE_KV_KV_CACHE_MANAGER_H_
#define TESSERA_ENGINE_KV_KV_CACHE_MANAGER_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/kv/block_hash.h"
#include "engine/kv/block_pool.h"

namespace tessera {

struct KvCacheOptions {
  int32_t num_blocks = 0;
  int32_t block_size = 16;  // tokens
  bool enable_prefix_cache = true;
  BlockHash key{};  // see BlockHasher
};

// The blocks of one sequence: position p lies in blocks[p / block_size]. Changed by KvCacheManager
// only.
struct SequenceBlocks {
  std::vector<BlockId> blocks;
  std::vector<BlockHash> hashes;  // of the first full blocks, as far as they were needed
  int32_t num_published = 0;      // leading blocks that were attached or offered to the cache
};

// The content of block `from` has to be copied to `to` before `to` is read.
struct BlockCopy {
  BlockId from{};
  BlockId to{};
};

// Engine thread only.
class KvCacheManager {
 public:
  explicit KvCacheManager(const KvCacheOptions& options);

  // Gives a sequence without blocks the longest cached prefix of `tokens`, whole blocks, never all
  // of `tokens` (the last one has to be computed to have logits). Returns the tokens covered.
  int32_t Attach(absl::Span<const int32_t> tokens, std::string_view salt, SequenceBlocks* sequence);
  // Grows to hold `num_tokens` tokens; false, and nothing changes, when the pool has too few.
  bool Reserve(int32_t num_tokens, SequenceBlocks* sequence);
  // The first `num_computed` of `tokens` are now in the blocks: full ones become findable.
  void Commit(absl::Span<const int32_t> tokens, int32_t num_computed, std::string_view salt,
              SequenceBlocks* sequence);
  // Gives a sequence without blocks the first `num_tokens` tokens of `parent`, which is not
  // changed: full blocks are shared. False, and nothing changes, when the pool has no block for the
  // rest; else `copy` is where the rest comes from, if there is any. It holds a reference to both
  // of its blocks, so that neither means anything else before it was made: see EndCopy.
  bool Fork(const SequenceBlocks& parent, int32_t num_tokens, SequenceBlocks* child,
            std::optional<BlockCopy>* copy);
  void EndCopy(const BlockCopy& copy);
  // Returns every block. The caller makes sure that no step in flight uses them.
  void Release(SequenceBlocks* sequence);

  int32_t block_size() const { return options_.block_size; }
  // Blocks that hold `num_tokens` tokens.
  int32_t BlocksFor(int32_t num_tokens) const {
    return (num_tokens + options_.block_size - 1) / options_.block_size;
  }
  const BlockPool& pool() const { return pool_; }
  absl::Status CheckIntegrity() const { return pool_.CheckIntegrity(); }

 private:
  const BlockHash& HashOf(absl::Span<const int32_t> tokens, int32_t block, std::string_view salt,
                          SequenceBlocks* sequence) const;

  const KvCacheOptions options_;
  BlockHasher hasher_;
  BlockPool pool_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_KV_KV_CACHE_MANAGER_H_
