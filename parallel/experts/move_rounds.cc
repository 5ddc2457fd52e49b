#include "parallel/experts/move_rounds.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// The placement being built: slots change their expert when the round is over.
class Round {
 public:
  Round(const Placement& from, const Placement& to)
      : from_(from),
        to_(to),
        shape_(from.shape()),
        slots_(from.slot_experts().begin(), from.slot_experts().end()),
        free_(shape_.num_ranks, 0) {
    for (int32_t slot = 0; slot < shape_.num_slots(); ++slot) {
      if (slots_[slot] == Placement::kSpare) ++free_[RankOf(slot)];
    }
  }

  int32_t RanksWithoutRoom() const {
    return static_cast<int32_t>(std::count(free_.begin(), free_.end(), 0));
  }

  void DropUnwantedReplicas() {
    std::vector<int32_t> replicas(shape_.num_experts, 0);
    for (int32_t expert : slots_) {
      if (expert != Placement::kSpare) ++replicas[expert];
    }
    for (int32_t slot = 0; slot < shape_.num_slots(); ++slot) {
      if (!Unwanted(slot) || replicas[slots_[slot]] == 1) continue;
      --replicas[slots_[slot]];
      Drop(slot);
    }
  }

  // Passes experts on to ranks that want them, as many as find room at once. True when none is
  // left where it is not wanted.
  bool MoveLastReplicas() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int32_t slot = 0; slot < shape_.num_slots(); ++slot) {
        if (Unwanted(slot) && MoveFrom(slot)) moved = true;
      }
    }
    for (int32_t slot = 0; slot < shape_.num_slots(); ++slot) {
      if (Unwanted(slot)) return false;
    }
    return true;
  }

  void AddMissingReplicas() {
    for (int32_t slot = 0; slot < shape_.num_slots(); ++slot) {
      const int32_t expert = to_.ExpertOf(slot);
      const int32_t rank = RankOf(slot);
      if (expert == Placement::kSpare || Holds(rank, expert)) continue;
      const int32_t room = Room(rank);
      if (room >= 0) Load(room, expert);
    }
  }

  absl::StatusOr<std::optional<MoveRound>> Finish() && {
    std::sort(loads_.begin(), loads_.end(),
              [](const SlotChange& a, const SlotChange& b) { return a.slot < b.slot; });
    ASSIGN_OR_RETURN(Placement after, Placement::Create(shape_, std::move(slots_)));
    return MoveRound{.loads = std::move(loads_), .after = std::move(after)};
  }

 private:
  int32_t RankOf(int32_t slot) const { return slot / shape_.slots_per_rank; }
  bool Wants(int32_t rank, int32_t expert) const {
    const auto replicas = to_.Replicas(expert);
    return std::any_of(replicas.begin(), replicas.end(),
                       [&](int32_t slot) { return to_.RankOf(slot) == rank; });
  }
  bool Unwanted(int32_t slot) const {
    return slots_[slot] != Placement::kSpare && !Wants(RankOf(slot), slots_[slot]);
  }
  bool Holds(int32_t rank, int32_t expert) const {
    const auto begin = slots_.begin() + int64_t{rank} * shape_.slots_per_rank;
    return std::find(begin, begin + shape_.slots_per_rank, expert) != begin + shape_.slots_per_rank;
  }
  // A slot that nothing uses now, nor after the round; -1: none.
  int32_t Room(int32_t rank) const {
    const int32_t begin = rank * shape_.slots_per_rank;
    for (int32_t slot = begin; slot < begin + shape_.slots_per_rank; ++slot) {
      if (slots_[slot] == Placement::kSpare && from_.ExpertOf(slot) == Placement::kSpare) {
        return slot;
      }
    }
    return -1;
  }
  void Drop(int32_t slot) {
    slots_[slot] = Placement::kSpare;
    ++free_[RankOf(slot)];
  }
  void Load(int32_t slot, int32_t expert) {
    slots_[slot] = expert;
    --free_[RankOf(slot)];
    loads_.push_back({.slot = slot, .expert = expert, .from_slot = from_.Replicas(expert)[0]});
  }

  bool MoveFrom(int32_t slot) {
    const int32_t expert = slots_[slot];
    for (int32_t wanted : to_.Replicas(expert)) {
      const int32_t rank = to_.RankOf(wanted);
      const int32_t room = Room(rank);
      // An expert that arrives in this round cannot leave again before the round is over.
      if (room < 0 || from_.ExpertOf(slot) != expert) continue;
      Drop(slot);
      Load(room, expert);
      if (RanksWithoutRoom() <= 1) return true;
      loads_.pop_back();
      slots_[room] = Placement::kSpare;
      ++free_[rank];
      slots_[slot] = expert;
      --free_[RankOf(slot)];
    }
    return false;
  }

  const Placement& from_;
  const Placement& to_;
  const PlacementShape shape_;
  std::vector<int32_t> slots_;
  std::vector<int32_t> free_;  // spare slots of each rank after the round
  std::vector<SlotChange> loads_;
};

}  // namespace

bool SameExperts(const Placement& a, const Placement& b) {
  if (a.shape() != b.shape()) return false;
  for (int32_t rank = 0; rank < a.shape().num_ranks; ++rank) {
    const auto experts = [rank](const Placement& placement) {
      const int32_t slots = placement.shape().slots_per_rank;
      const auto held = placement.slot_experts().subspan(size_t(rank) * slots, slots);
      std::vector<int32_t> sorted(held.begin(), held.end());
      std::sort(sorted.begin(), sorted.end());
      return sorted;
    };
    if (experts(a) != experts(b)) return false;
  }
  return true;
}

absl::StatusOr<std::optional<MoveRound>> NextRound(const Placement& from, const Placement& to) {
  if (from.shape() != to.shape()) {
    return absl::InvalidArgumentError("placements of different shapes: there is no way between");
  }
  if (SameExperts(from, to)) return std::nullopt;
  Round round(from, to);
  if (round.RanksWithoutRoom() > 1 || Round(to, to).RanksWithoutRoom() > 0) {
    return absl::InvalidArgumentError(
        "moving experts needs a spare slot on every rank, before and after");
  }
  round.DropUnwantedReplicas();
  if (round.MoveLastReplicas()) round.AddMissingReplicas();
  return std::move(round).Finish();
}

}  // namespace tessera
