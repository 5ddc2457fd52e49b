// From one placement to another while both the old and every placement between them can serve.
#ifndef TESSERA_PARALLEL_EXPERTS_MOVE_ROUNDS_H_
#define TESSERA_PARALLEL_EXPERTS_MOVE_ROUNDS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/experts/placement.h"

namespace tessera {

// Loads that may happen at the same time while the placement before them serves, and the placement
// that serves once all of them are done.
struct MoveRound {
  std::vector<SlotChange> loads;  // into slots that are spare before the round, ascending
  Placement after;
};

// True when every rank holds the same experts; which slots they lie in does not matter.
bool SameExperts(const Placement& a, const Placement& b);

// The next round on the way from `from` to the experts of `to`; nullopt when they are there.
// Following the rounds ends at SameExperts(…, to), and in every placement on the way each expert
// has a replica.
//
// `to` must leave a slot of every rank spare, and of `from` at most one rank may have none: so a
// move always finds room. All placements between have that property, so that a way given up half
// through is a beginning of the next one. INVALID_ARGUMENT when it is not so.
//
// The rule: replicas that `to` does not want go first, unless they are the last of their expert.
// Those last ones then move one by one to a rank that wants them, never leaving two ranks without a
// spare slot: a full rank always holds an expert that it can pass on, to a rank with room. When
// only wanted experts are left, every rank has room for those it still lacks.
absl::StatusOr<std::optional<MoveRound>> NextRound(const Placement& from, const Placement& to);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_EXPERTS_MOVE_ROUNDS_H_
