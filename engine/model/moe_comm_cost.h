// What --moe-comm=auto decides by: the time of both ways of communicating, for some token counts.
#ifndef TESSERA_ENGINE_MODEL_MOE_COMM_COST_H_
#define TESSERA_ENGINE_MODEL_MOE_COMM_COST_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace tessera {

// Communication of one MoE layer, seconds, mean over the ranks.
struct MoeCommCost {
  int64_t tokens = 0;  // of the largest group
  float all_reduce = 0;
  float all_to_all = 0;

  bool prefers_all_to_all() const { return all_to_all < all_reduce; }
  friend bool operator==(const MoeCommCost&, const MoeCommCost&) = default;
};

// Decides by the first entry with at least so many tokens, else by the last. `costs` is not empty
// and ascends in tokens.
bool PrefersAllToAll(absl::Span<const MoeCommCost> costs, int64_t tokens);

// Ranks that decide differently would wait for each other for ever. `tables`: the costs of every
// rank, one rank after the other, `num_ranks` equally long parts. INTERNAL names the rank whose
// table is not that of rank 0.
absl::Status CheckSameCosts(absl::Span<const MoeCommCost> tables, int32_t num_ranks);

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_MOE_COMM_COST_H_
