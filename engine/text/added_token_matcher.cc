#include "engine/text/added_token_matcher.h"

namespace tessera {
namespace {

uint64_t EdgeKey(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

void AddedTokenMatcher::Add(std::string_view token, int32_t id) {
  first_bytes_[static_cast<uint8_t>(token[0])] = true;
  uint32_t node = 0;
  for (const char byte : token) {
    const auto [edge, inserted] = children_.try_emplace(EdgeKey(node, byte), node_count_);
    if (inserted) ++node_count_;
    node = edge->second;
  }
  id_at_[node] = id;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::Find(std::string_view text,
                                                                size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!first_bytes_[static_cast<uint8_t>(text[begin])]) continue;
    if (const auto match = LongestAt(text, begin)) return match;
  }
  return std::nullopt;
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::LongestAt(std::string_view text,
                                                                     size_t begin) const {
  std::optional<Match> longest;
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto edge = children_.find(EdgeKey(node, text[i]));
    if (edge == children_.end()) break;
    node = edge->second;
    if (const auto id = id_at_.find(node); id != id_at_.end()) {
      longest = Match{begin, i + 1, id->second};
    }
  }
  return longest;
}

}  // namespace tessera
