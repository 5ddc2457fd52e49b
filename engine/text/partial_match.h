// Holding back text that may turn out to be a tag.
#ifndef TESSERA_ENGINE_TEXT_PARTIAL_MATCH_H_
#define TESSERA_ENGINE_TEXT_PARTIAL_MATCH_H_

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace tessera {

// Length of the longest suffix of `text` that is a proper prefix of `tag`.
inline size_t PartialMatchLength(std::string_view text, std::string_view tag) {
  size_t length = std::min(text.size(), tag.size() - 1);
  while (length > 0 && text.substr(text.size() - length) != tag.substr(0, length)) --length;
  return length;
}

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_PARTIAL_MATCH_H_
