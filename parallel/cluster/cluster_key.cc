#include "parallel/cluster/cluster_key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"

namespace tessera {
namespace {

constexpr size_t kMinKeyBytes = 16;
constexpr size_t kMaxKeyBytes = 4096;
constexpr int64_t kMaxFileBytes = 64 << 10;  // a key and white space around it
constexpr int kNonceBytes = 32;

}  // namespace

std::string Mac(std::string_view key, std::initializer_list<std::string_view> parts) {
  std::string input;
  for (std::string_view part : parts) {
    const uint64_t size = part.size();
    input.append(reinterpret_cast<const char*>(&size), sizeof(size));
    input.append(part);
  }
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  const unsigned char* done =
      HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
           reinterpret_cast<const unsigned char*>(input.data()), input.size(), mac, &size);
  TESSERA_CHECK(done != nullptr);
  return {reinterpret_cast<const char*>(mac), size};
}

bool SameBytes(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string RandomNonce() {
  unsigned char bytes[kNonceBytes];
  TESSERA_CHECK(RAND_bytes(bytes, kNonceBytes) == 1);
  return {reinterpret_cast<const char*>(bytes), kNonceBytes};
}

absl::StatusOr<std::string> ReadClusterKey(const std::string& path) {
  absl::StatusOr<std::string> text = ReadTextFile(path, kMaxFileBytes);
  if (!text.ok()) {
    return absl::NotFoundError(
        absl::StrCat("cannot read the cluster key file ", text.status().message()));
  }
  std::string key = *std::move(text);
  absl::StripAsciiWhitespace(&key);
  if (key.size() >= kMinKeyBytes && key.size() <= kMaxKeyBytes) return key;
  return absl::InvalidArgumentError(absl::StrCat(
      "the cluster key in ", path, " has ", key.size(), " bytes; it needs ", kMinKeyBytes, " to ",
      kMaxKeyBytes, " (for example the output of: openssl rand -hex 32)"));
}

}  // namespace tessera
