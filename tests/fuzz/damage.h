// Valid messages with some bytes changed: the way behind checks that random bytes never pass.
#ifndef TESSERA_TESTS_FUZZ_DAMAGE_H_
#define TESSERA_TESTS_FUZZ_DAMAGE_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace tessera {

// `edits`: two bytes of a place and one of a change, again and again. None leaves the message
// whole.
inline std::string Damaged(std::string message, std::string_view edits) {
  for (; edits.size() >= 3 && !message.empty(); edits.remove_prefix(3)) {
    uint16_t place = 0;
    std::memcpy(&place, edits.data(), sizeof(place));
    char& byte = message[place % message.size()];
    byte = static_cast<char>(byte ^ edits[2]);
  }
  return message;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_FUZZ_DAMAGE_H_
