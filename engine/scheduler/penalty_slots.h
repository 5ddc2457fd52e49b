// Which running sequence has which slot of the devices' penalty tables (SampleArgs in
// kernels/ops.h), and how many counts a step may bring there.
#ifndef TESSERA_ENGINE_SCHEDULER_PENALTY_SLOTS_H_
#define TESSERA_ENGINE_SCHEDULER_PENALTY_SLOTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/scheduler/sequence.h"

namespace tessera {

// A slot may change hands while steps of its last owner are under way: devices run steps in order,
// and the new owner's first draw resets it. Not thread-safe.
class PenaltySlots {
 public:
  // `max_listed`: tokens that the lists of one step may have together.
  PenaltySlots(int32_t num_slots, int64_t max_listed);

  // The sequence begins to run: gets a slot when it has penalties. There are as many as sequences
  // that can run.
  void Give(Sequence* sequence);
  // It runs no more.
  void TakeBack(Sequence* sequence);

  void BeginStep() { left_ = max_listed_; }
  // How many of the sequence's next `num_tokens` tokens the step can run: a sequence that is to
  // draw for the first time since it began to run brings its list; when that does not fit any more
  // its last token waits for the next step. The first list of a step always fits.
  int32_t TokensThatFit(const Sequence& sequence, int32_t num_tokens);

  // INTERNAL unless every slot is free or belongs to one of `running`, the sequences with penalties
  // all have one, and no other has.
  absl::Status CheckIntegrity(absl::Span<const Sequence* const> running) const;

 private:
  const int32_t num_slots_;
  const int64_t max_listed_;
  int64_t left_ = 0;
  std::vector<int32_t> free_;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_SCHEDULER_PENALTY_SLOTS_H_
