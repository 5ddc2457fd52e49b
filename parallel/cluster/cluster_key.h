// The shared key of a group and what is computed with it.
#ifndef TESSERA_PARALLEL_CLUSTER_CLUSTER_KEY_H_
#define TESSERA_PARALLEL_CLUSTER_CLUSTER_KEY_H_

#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

// HMAC-SHA256 (RFC 2104) over the parts, each preceded by its length, so that no two lists of
// parts give the same input. 32 bytes.
std::string Mac(std::string_view key, std::initializer_list<std::string_view> parts);
// Takes the same time wherever the bytes differ.
bool SameBytes(std::string_view a, std::string_view b);
// 32 random bytes.
std::string RandomNonce();

// The content of a key file without surrounding white space; at least 16 bytes.
absl::StatusOr<std::string> ReadClusterKey(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_CLUSTER_KEY_H_
