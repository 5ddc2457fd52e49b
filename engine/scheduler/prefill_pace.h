// How many prompt tokens a step may have while others wait for it.
#ifndef TESSERA_ENGINE_SCHEDULER_PREFILL_PACE_H_
#define TESSERA_ENGINE_SCHEDULER_PREFILL_PACE_H_

#include <cstdint>

#include "absl/time/time.h"

namespace tessera {

// Learns from steps what prompt tokens cost: a step takes about a + b * prompt tokens, where `a` is
// what a step without any takes. A chunk that prolongs the step by the larger of kAddedTime and
// kAddedShare * a is bearable for those who decode, and for a short prompt that has just missed it;
// larger ones would hold everybody up for the sake of one. On devices where prompt tokens cost
// little this is more than any chunk has. Not thread-safe.
class PrefillPace {
 public:
  // A step with so many prompt tokens took so long; both kinds of steps are wanted.
  void Observe(int32_t prefill_tokens, absl::Duration step);

  // At most `most` and, where that allows, at least kLeastChunk. `most` until something is known.
  int32_t Chunk(int32_t most) const;

  static constexpr absl::Duration kAddedTime = absl::Milliseconds(15);
  static constexpr double kAddedShare = 2;
  // Weights are read for every chunk, which fewer tokens do not pay for.
  static constexpr int32_t kLeastChunk = 64;

 private:
  double decode_seconds_ = 0;  // `a`; 0: unknown
  double token_seconds_ = 0;   // `b`; 0: unknown
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_PREFILL_PACE_H_
