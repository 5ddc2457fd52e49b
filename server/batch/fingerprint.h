// Texts that are compared without being kept.
#ifndef TESSERA_SERVER_BATCH_FINGERPRINT_H_
#define TESSERA_SERVER_BATCH_FINGERPRINT_H_

#include <cstdint>
#include <string_view>

namespace tessera {

// FNV-1a with 64 bits, never 0. Against mistakes, not against attackers.
inline uint64_t Fingerprint(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  return hash == 0 ? 1 : hash;
}

}  // namespace tessera

#endif  // TESSERA_SERVER_BATCH_FINGERPRINT_H_
