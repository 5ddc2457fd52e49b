// API keys: who they belong to and what they are good for, as a file says it.
#ifndef TESSERA_SERVER_ACCESS_API_KEYS_H_
#define TESSERA_SERVER_ACCESS_API_KEYS_H_

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

enum class Scope : uint8_t {
  kGenerate,  // generations, tokens
  kAdmin,     // what kMetrics may, and ending other people's requests
  kMetrics,   // load and facts of the server
};
inline constexpr std::array<const char*, 3> kScopeNames = {"generate", "admin", "metrics"};

// SHA-256.
using KeyDigest = std::array<uint8_t, 32>;
KeyDigest DigestOf(std::string_view key);

struct ApiKey {
  std::string name;  // no secret; unique in its file
  KeyDigest digest = {};
  std::string tenant;
  std::vector<Scope> scopes;  // not empty
  bool Has(Scope scope) const;
};

// What the keys of a tenant may do together. Numbers that are not given set no limit.
struct TenantLimits {
  static constexpr double kNoLimit = std::numeric_limits<double>::infinity();
  double requests_per_second = kNoLimit;  // more than 0
  double tokens_per_minute = kNoLimit;    // of prompts and answers; more than 0
  double concurrent_streams = kNoLimit;   // open generations; 1 or more
  int32_t priority = 0;                   // class of its requests: lower runs first
  double weight = 1;    // of its part of the machine, among others'; [0.001, 1000]
  double kv_share = 0;  // of the KV cache, [0.001, 1]; 0: its part
  bool operator==(const TenantLimits&) const = default;
};

struct KeyFile {
  std::vector<ApiKey> keys;
  std::map<std::string, TenantLimits> tenants;  // those of whom the file says something
};

// A YAML mapping:
//   tenants:
//     acme: {requests-per-second: 10, tokens-per-minute: 60000, concurrent-streams: 8, priority: 0,
//            weight: 2, kv-share: 0.5}
//   keys:
//     - {name: ci, sha256: 64 HEX DIGITS, tenant: acme, scopes: [generate]}
// All four fields of a key are needed; tenants, and each number of one, may be left out, but where
// there are tenants every key belongs to one of them. Names are [A-Za-z0-9._-]{1,64}. Errors name
// `source`, the place and what is wrong; an unknown word comes with the closest known one. A file
// that was cut off is refused: its last line must have its end, unless a bracket closes it.
absl::StatusOr<KeyFile> ParseApiKeys(const std::string& yaml, const std::string& source);
std::string FormatApiKeys(const KeyFile& file);

// Refuses also files that everybody can read or write.
absl::StatusOr<KeyFile> ReadApiKeys(const std::string& path);
// Replaces the file as a whole, for its owner alone to read, or with the permissions that it had.
absl::Status WriteApiKeys(const std::string& path, const KeyFile& file);

// A new key of 256 random bits: "tsk-" and 64 hexadecimal digits.
std::string MakeApiKey();

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_API_KEYS_H_
