// Finds added tokens (control tokens such as <|im_end|>) in raw text.
#ifndef TESSERA_ENGINE_TEXT_ADDED_TOKEN_MATCHER_H_
#define TESSERA_ENGINE_TEXT_ADDED_TOKEN_MATCHER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace tessera {

// A trie over the tokens' bytes. Filled once, then immutable and usable from any number of threads.
class AddedTokenMatcher {
 public:
  struct Match {
    size_t begin;
    size_t end;
    int32_t id;
  };

  // `token` must not be empty; adding it again replaces its id.
  void Add(std::string_view token, int32_t id);

  // The leftmost match at or after `from`, of those that start there the longest. Time is at most
  // the length of the text times that of the longest token.
  std::optional<Match> Find(std::string_view text, size_t from) const;

 private:
  std::optional<Match> LongestAt(std::string_view text, size_t begin) const;

  std::array<bool, 256> first_bytes_{};
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte; the root is node 0
  absl::flat_hash_map<uint32_t, int32_t> id_at_;      // nodes where a token ends
  uint32_t node_count_ = 1;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_ADDED_TOKEN_MATCHER_H_
