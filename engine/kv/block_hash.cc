#include "engine/kv/block_hash.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "kernels/core/status_macros.h"

namespace tessera {

// Fetched once: looking the algorithm up costs more than hashing a block.
struct BlockHasher::Digest {
  Digest() : algorithm(EVP_MD_fetch(nullptr, "SHA256", nullptr)), context(EVP_MD_CTX_new()) {
    TESSERA_CHECK(algorithm != nullptr && context != nullptr);
  }
  ~Digest() {
    EVP_MD_CTX_free(context);
    EVP_MD_free(algorithm);
  }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  EVP_MD* algorithm;
  EVP_MD_CTX* context;
};

BlockHasher::BlockHasher(const BlockHash& key) : key_(key), digest_(std::make_unique<Digest>()) {}
BlockHasher::~BlockHasher() = default;
BlockHasher::BlockHasher(BlockHasher&&) noexcept = default;
BlockHasher& BlockHasher::operator=(BlockHasher&&) noexcept = default;

BlockHash BlockHasher::RandomKey() {
  BlockHash key;
  TESSERA_CHECK(RAND_bytes(key.data(), static_cast<int>(key.size())) == 1);
  return key;
}

BlockHash BlockHasher::Root(std::string_view salt) const {
  return Hash(key_, salt.data(), salt.size());
}

BlockHash BlockHasher::Next(const BlockHash& previous, absl::Span<const int32_t> token_ids) const {
  return Hash(previous, token_ids.data(), token_ids.size() * sizeof(int32_t));
}

BlockHash BlockHasher::Hash(const BlockHash& head, const void* data, size_t size) const {
  BlockHash out;
  unsigned int length = 0;
  EVP_MD_CTX* context = digest_->context;
  const bool ok = EVP_DigestInit_ex2(context, digest_->algorithm, nullptr) == 1 &&
                  EVP_DigestUpdate(context, head.data(), head.size()) == 1 &&
                  EVP_DigestUpdate(context, data, size) == 1 &&
                  EVP_DigestFinal_ex(context, out.data(), &length) == 1;
  TESSERA_CHECK(ok && length == out.size());
  return out;
}

}  // namespace tessera
