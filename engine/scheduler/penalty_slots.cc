#include "engine/scheduler/penalty_slots.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {

PenaltySlots::PenaltySlots(int32_t num_slots, int64_t max_listed)
    : num_slots_(num_slots), max_listed_(max_listed) {
  // Low slots are taken first: the memory behind the others stays untouched.
  for (int32_t slot = num_slots; slot > 0; --slot) free_.push_back(slot - 1);
}

void PenaltySlots::Give(Sequence* sequence) {
  if (!sequence->has_penalties()) return;
  TESSERA_CHECK(sequence->penalty_slot < 0 && !free_.empty());
  sequence->penalty_slot = free_.back();
  sequence->penalties_listed = false;
  free_.pop_back();
}

void PenaltySlots::TakeBack(Sequence* sequence) {
  if (sequence->penalty_slot >= 0) free_.push_back(std::exchange(sequence->penalty_slot, -1));
}

int32_t PenaltySlots::TokensThatFit(const Sequence& sequence, int32_t num_tokens) {
  const bool draws = sequence.num_planned + num_tokens == sequence.next_position();
  if (!draws || sequence.penalty_slot < 0 || sequence.penalties_listed) return num_tokens;
  const auto listed = static_cast<int64_t>(sequence.token_counts().tokens().size());
  if (listed > left_ && left_ < max_listed_) return num_tokens - 1;
  left_ -= listed;
  return num_tokens;
}

absl::Status PenaltySlots::CheckIntegrity(absl::Span<const Sequence* const> running) const {
  std::vector<int32_t> holders(num_slots_, 0);
  for (const int32_t slot : free_) ++holders[slot];
  for (const Sequence* sequence : running) {
    if (sequence->has_penalties() != (sequence->penalty_slot >= 0)) {
      return absl::InternalError(absl::StrCat("sequence ", static_cast<uint64_t>(sequence->id()),
                                              " has penalty slot ", sequence->penalty_slot));
    }
    if (sequence->penalty_slot >= 0) ++holders[sequence->penalty_slot];
  }
  for (int32_t slot = 0; slot < num_slots_; ++slot) {
    if (holders[slot] == 1) continue;
    return absl::InternalError(
        absl::StrCat("penalty slot ", slot, " has ", holders[slot], " holders"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
