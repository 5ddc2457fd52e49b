// Distinct tokens of a sequence with their number of occurrences in the output, for penalties.
#ifndef TESSERA_ENGINE_SCHEDULER_TOKEN_COUNTS_H_
#define TESSERA_ENGINE_SCHEDULER_TOKEN_COUNTS_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace tessera {

// In order of first occurrence, so that equal sequences give equal lists. Not thread-safe.
class TokenCounts {
 public:
  // Lists prompt tokens with a count of 0.
  void AddPrompt(absl::Span<const int32_t> tokens) {
    for (int32_t token : tokens) IndexOf(token);
  }
  void AddOutput(int32_t token) { ++counts_[IndexOf(token)]; }

  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::vector<int32_t>& counts() const { return counts_; }  // parallel to tokens()

 private:
  size_t IndexOf(int32_t token) {
    const auto [it, added] = index_.try_emplace(token, tokens_.size());
    if (added) {
      tokens_.push_back(token);
      counts_.push_back(0);
    }
    return it->second;
  }

  absl::flat_hash_map<int32_t, size_t> index_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> counts_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_TOKEN_COUNTS_H_
