// Which KV blocks are free, used or cached. Ids only: the bytes live with the executor.
#ifndef TESSERA_ENGINE_KV_BLOCK_POOL_H_
#define TESSERA_ENGINE_KV_BLOCK_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/kv/block_hash.h"

namespace tessera {

enum class BlockId : int32_t {};

// A block is used (referenced), cached (unreferenced, content findable by its hash) or free.
// Allocation takes free blocks first, then evicts the cached block unused for longest.
// Engine thread only. Calls that break a precondition are CHECK failures.
class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  // A block with one reference and no content; nullopt when every block is used.
  std::optional<BlockId> Allocate();
  void Ref(BlockId id);
  // The last reference makes the block cached when it was published, otherwise free.
  void Unref(BlockId id);
  // Takes no reference: the block may be evicted by the next Allocate.
  std::optional<BlockId> Find(const BlockHash& hash) const;
  // Makes a used block findable. Does nothing when it or another block already carries a hash
  // that would clash.
  void Publish(BlockId id, const BlockHash& hash);

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_cached() const { return num_cached_; }
  int32_t num_used() const { return num_blocks() - num_free() - num_cached(); }
  int32_t num_available() const { return num_free() + num_cached(); }
  int32_t references(BlockId id) const { return At(id).references; }

  // INTERNAL with what is wrong when the books do not balance. O(num_blocks).
  absl::Status CheckIntegrity() const;

 private:
  static constexpr int32_t kNone = -1;

  struct Block {
    int32_t references = 0;
    bool published = false;
    int32_t previous = kNone;  // neighbours in the list of cached blocks
    int32_t next = kNone;
    BlockHash hash{};
  };

  Block& At(BlockId id);
  const Block& At(BlockId id) const;
  void LinkCached(int32_t index);
  void UnlinkCached(int32_t index);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;  // used as a stack
  int32_t oldest_cached_ = kNone;
  int32_t newest_cached_ = kNone;
  int32_t num_cached_ = 0;
  absl::flat_hash_map<BlockHash, int32_t> by_hash_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_KV_BLOCK_POOL_H_
