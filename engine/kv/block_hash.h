// Names of full KV blocks by what they hold: a keyed SHA-256 chain over token ids.
#ifndef TESSERA_ENGINE_KV_BLOCK_HASH_H_
#define TESSERA_ENGINE_KV_BLOCK_HASH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/types/span.h"

namespace tessera {

using BlockHash = std::array<uint8_t, 32>;

// root = SHA-256(key, salt); hash of block i = SHA-256(hash of block i - 1, its token ids). A
// client who does not know the key cannot construct two prompts with equal names, and tenants with
// different salts never meet. Used by one thread.
class BlockHasher {
 public:
  // `key` is secret and drawn once per process; all groups share it.
  explicit BlockHasher(const BlockHash& key);
  ~BlockHasher();
  BlockHasher(BlockHasher&&) noexcept;
  BlockHasher& operator=(BlockHasher&&) noexcept;

  // A key from the operating system's entropy.
  static BlockHash RandomKey();

  BlockHash Root(std::string_view salt) const;
  BlockHash Next(const BlockHash& previous, absl::Span<const int32_t> token_ids) const;

 private:
  struct Digest;
  BlockHash Hash(const BlockHash& head, const void* data, size_t size) const;

  BlockHash key_;
  std::unique_ptr<Digest> digest_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_KV_BLOCK_HASH_H_
