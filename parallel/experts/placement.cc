#include "parallel/experts/placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/dtype.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

constexpr int32_t kMaxSlots = 1 << 20;

absl::Status CheckShape(const PlacementShape& shape) {
  if (shape.num_experts < 1 || shape.num_ranks < 1 || shape.slots_per_rank < 1 ||
      int64_t{shape.num_ranks} * shape.slots_per_rank > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("a placement of ", shape.num_experts, " experts on ", shape.num_ranks,
                     " ranks with ", shape.slots_per_rank, " slots each is not possible"));
  }
  if (shape.num_experts > shape.num_slots()) {
    return absl::InvalidArgumentError(absl::StrCat(
        shape.num_experts, " experts need at least ",
        (shape.num_experts + shape.num_ranks - 1) / shape.num_ranks, " slots on each of ",
        shape.num_ranks, " ranks; there are ", shape.slots_per_rank));
  }
  return absl::OkStatus();
}

// One replica to be packed.
struct Replica {
  int32_t expert = 0;
  double load = 0;
};

// As many replicas as there are slots; never more than one per rank for an expert.
std::vector<Replica> Replicate(const PlacementShape& shape, absl::Span<const double> loads) {
  std::vector<int32_t> count(shape.num_experts, 1);
  for (int32_t used = shape.num_experts; used < shape.num_slots(); ++used) {
    int32_t best = -1;
    for (int32_t e = 0; e < shape.num_experts; ++e) {
      if (count[e] == shape.num_ranks) continue;
      if (best < 0 || loads[e] / count[e] > loads[best] / count[best]) best = e;
    }
    if (best < 0) break;
    ++count[best];
  }
  std::vector<Replica> replicas;
  for (int32_t e = 0; e < shape.num_experts; ++e) {
    for (int32_t i = 0; i < count[e]; ++i) replicas.push_back({e, loads[e] / count[e]});
  }
  std::stable_sort(replicas.begin(), replicas.end(),
                   [](const Replica& a, const Replica& b) { return a.load > b.load; });
  return replicas;
}

// Ranks being filled.
class Packing {
 public:
  explicit Packing(const PlacementShape& shape) : shape_(shape), ranks_(shape.num_ranks) {}

  // Puts the replica on the least loaded rank with room; when all ranks with room hold the expert
  // already, one of them takes another rank's replica instead. False when no exchange helps.
  bool Add(const Replica& replica) {
    int32_t best = -1;
    for (int32_t r = 0; r < shape_.num_ranks; ++r) {
      if (Full(r) || Holds(r, replica.expert)) continue;
      if (best < 0 || ranks_[r].load < ranks_[best].load) best = r;
    }
    if (best < 0) return AddByExchange(replica);
    Put(best, replica);
    return true;
  }

  const std::vector<Replica>& On(int32_t rank) const { return ranks_[rank].replicas; }

 private:
  struct Rank {
    std::vector<Replica> replicas;
    double load = 0;
  };

  bool Full(int32_t r) const {
    return static_cast<int32_t>(ranks_[r].replicas.size()) == shape_.slots_per_rank;
  }
  bool Holds(int32_t r, int32_t expert) const {
    return std::any_of(ranks_[r].replicas.begin(), ranks_[r].replicas.end(),
                       [expert](const Replica& held) { return held.expert == expert; });
  }
  void Put(int32_t r, const Replica& replica) {
    ranks_[r].replicas.push_back(replica);
    ranks_[r].load += replica.load;
  }

  bool AddByExchange(const Replica& replica) {
    for (int32_t open = 0; open < shape_.num_ranks; ++open) {
      if (Full(open)) continue;
      for (int32_t other = 0; other < shape_.num_ranks; ++other) {
        if (Holds(other, replica.expert)) continue;
        // Smallest replicas were packed last; moving one disturbs the balance least.
        for (size_t i = ranks_[other].replicas.size(); i-- > 0;) {
          const Replica moved = ranks_[other].replicas[i];
          if (Holds(open, moved.expert)) continue;
          ranks_[other].replicas.erase(ranks_[other].replicas.begin() + static_cast<int64_t>(i));
          ranks_[other].load -= moved.load;
          Put(open, moved);
          Put(other, replica);
          return true;
        }
      }
    }
    return false;
  }

  const PlacementShape shape_;
  std::vector<Rank> ranks_;
};

// The packed set that each rank takes: pairs with the most experts in place first.
std::vector<int32_t> MatchRanks(const Placement& current, const Packing& packing) {
  const int32_t ranks = current.shape().num_ranks;
  struct Pair {
    int32_t in_place, rank, set;
  };
  std::vector<Pair> pairs;
  for (int32_t set = 0; set < ranks; ++set) {
    std::vector<int32_t> in_place(ranks, 0);
    for (const Replica& replica : packing.On(set)) {
      for (int32_t slot : current.Replicas(replica.expert)) ++in_place[current.RankOf(slot)];
    }
    for (int32_t rank = 0; rank < ranks; ++rank) pairs.push_back({in_place[rank], rank, set});
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.in_place > b.in_place; });
  std::vector<int32_t> set_of_rank(ranks, -1);
  std::vector<char> taken(ranks, 0);
  for (const Pair& pair : pairs) {
    if (set_of_rank[pair.rank] >= 0 || taken[pair.set] != 0) continue;
    set_of_rank[pair.rank] = pair.set;
    taken[pair.set] = 1;
  }
  return set_of_rank;
}

// Gives experts that stay on a rank the slot they have, the others the free ones.
void FillSlots(const Placement& current, int32_t rank, const std::vector<Replica>& replicas,
               std::vector<int32_t>& slots) {
  const int32_t begin = rank * current.shape().slots_per_rank;
  const int32_t end = begin + current.shape().slots_per_rank;
  std::vector<int32_t> arriving;
  for (const Replica& replica : replicas) {
    int32_t slot = begin;
    while (slot < end && current.ExpertOf(slot) != replica.expert) ++slot;
    if (slot < end) {
      slots[slot] = replica.expert;
    } else {
      arriving.push_back(replica.expert);
    }
  }
  std::sort(arriving.begin(), arriving.end());
  auto next = arriving.begin();
  // Spare slots first: they can be filled while the current placement is in use.
  for (const bool spare : {true, false}) {
    for (int32_t slot = begin; slot < end && next != arriving.end(); ++slot) {
      if (slots[slot] != Placement::kSpare) continue;
      if ((current.ExpertOf(slot) == Placement::kSpare) == spare) slots[slot] = *next++;
    }
  }
}

}  // namespace

Placement::Placement(const PlacementShape& shape, std::vector<int32_t> slot_experts)
    : shape_(shape),
      slot_experts_(std::move(slot_experts)),
      replica_offsets_(shape.num_experts + 1, 0),
      replica_slots_(shape.num_slots(), kSpare) {
  for (int32_t expert : slot_experts_) {
    if (expert != kSpare) ++replica_offsets_[expert + 1];
  }
  std::partial_sum(replica_offsets_.begin(), replica_offsets_.end(), replica_offsets_.begin());
  std::vector<int32_t> next(replica_offsets_.begin(), replica_offsets_.end() - 1);
  for (int32_t slot = 0; slot < shape_.num_slots(); ++slot) {
    if (slot_experts_[slot] != kSpare) replica_slots_[next[slot_experts_[slot]]++] = slot;
  }
}

absl::StatusOr<Placement> Placement::Create(const PlacementShape& shape,
                                            std::vector<int32_t> slot_experts) {
  RETURN_IF_ERROR(CheckShape(shape));
  if (static_cast<int32_t>(slot_experts.size()) != shape.num_slots()) {
    return absl::InvalidArgumentError(absl::StrCat("the placement lists ", slot_experts.size(),
                                                   " slots instead of ", shape.num_slots()));
  }
  std::vector<int32_t> last_rank(shape.num_experts, -1);
  for (int32_t slot = 0; slot < shape.num_slots(); ++slot) {
    const int32_t expert = slot_experts[slot];
    if (expert == kSpare) continue;
    if (expert < 0 || expert >= shape.num_experts) {
      return absl::InvalidArgumentError(
          absl::StrCat("slot ", slot, " names expert ", expert, " of ", shape.num_experts));
    }
    const int32_t rank = slot / shape.slots_per_rank;
    if (last_rank[expert] == rank) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, " holds expert ", expert, " twice"));
    }
    last_rank[expert] = rank;
  }
  for (int32_t expert = 0; expert < shape.num_experts; ++expert) {
    if (last_rank[expert] < 0) {
      return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " has no slot"));
    }
  }
  return Placement(shape, std::move(slot_experts));
}

absl::StatusOr<Placement> Placement::Even(const PlacementShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  if (shape.num_experts % shape.num_ranks != 0) {
    return absl::InvalidArgumentError(absl::StrCat(shape.num_experts, " experts cannot be spread ",
                                                   "evenly over ", shape.num_ranks, " ranks"));
  }
  const int32_t experts_per_rank = shape.num_experts / shape.num_ranks;
  std::vector<int32_t> slots(shape.num_slots(), kSpare);
  for (int32_t e = 0; e < shape.num_experts; ++e) {
    slots[e / experts_per_rank * shape.slots_per_rank + e % experts_per_rank] = e;
  }
  return Create(shape, std::move(slots));
}

absl::Span<const int32_t> Placement::Replicas(int32_t expert) const {
  return absl::MakeSpan(replica_slots_)
      .subspan(replica_offsets_[expert], replica_offsets_[expert + 1] - replica_offsets_[expert]);
}

PlacementView Placement::view() const {
  return {.replica_offsets = replica_offsets_.data(),
          .replica_slots = replica_slots_.data(),
          .num_experts = shape_.num_experts,
          .num_ranks = shape_.num_ranks,
          .slots_per_rank = shape_.slots_per_rank};
}

std::vector<double> PredictRankLoads(const Placement& placement, absl::Span<const double> loads) {
  std::vector<double> ranks(placement.shape().num_ranks, 0);
  for (int32_t e = 0; e < placement.shape().num_experts; ++e) {
    const auto replicas = placement.Replicas(e);
    for (int32_t slot : replicas) {
      ranks[placement.RankOf(slot)] += loads[e] / static_cast<double>(replicas.size());
    }
  }
  return ranks;
}

double BalanceRatio(absl::Span<const double> rank_loads) {
  const double largest = *std::max_element(rank_loads.begin(), rank_loads.end());
  if (!(largest > 0)) return 1;
  const double total = std::accumulate(rank_loads.begin(), rank_loads.end(), 0.0);
  return total / static_cast<double>(rank_loads.size()) / largest;
}

absl::StatusOr<Placement> ProposePlacement(const Placement& current, absl::Span<const double> loads,
                                           int32_t reserve) {
  PlacementShape shape = current.shape();
  shape.slots_per_rank -= reserve;
  RETURN_IF_ERROR(CheckShape(shape));
  if (static_cast<int32_t>(loads.size()) != shape.num_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("loads of ", loads.size(), " experts given for ", shape.num_experts));
  }
  for (double load : loads) {
    if (!(load >= 0) || !std::isfinite(load)) {
      return absl::InvalidArgumentError("expert loads must be finite and not negative");
    }
  }
  Packing packing(shape);
  std::vector<char> placed(shape.num_experts, 0);
  for (const Replica& replica : Replicate(shape, loads)) {
    // Leaving out a further replica is harmless; a first one always fits in some order.
    if (packing.Add(replica)) placed[replica.expert] = 1;
  }
  if (std::find(placed.begin(), placed.end(), 0) != placed.end()) return current;
  std::vector<int32_t> slots(current.shape().num_slots(), Placement::kSpare);
  const std::vector<int32_t> set_of_rank = MatchRanks(current, packing);
  for (int32_t r = 0; r < shape.num_ranks; ++r) {
    FillSlots(current, r, packing.On(set_of_rank[r]), slots);
  }
  return Placement::Create(current.shape(), std::move(slots));
}

bool WorthMoving(const Placement& current, const Placement& proposed,
                 absl::Span<const double> loads, const RebalancePolicy& policy) {
  const std::vector<double> now = PredictRankLoads(current, loads);
  if (BalanceRatio(now) >= policy.trigger_ratio) return false;
  const std::vector<double> then = PredictRankLoads(proposed, loads);
  return *std::max_element(then.begin(), then.end()) <=
         *std::max_element(now.begin(), now.end()) * (1 - policy.min_gain);
}

absl::StatusOr<PlacementTable> PlacementTable::Create(Device* device, Placement initial) {
  PlacementTable table(device, std::move(initial));
  const size_t words =
      table.current_.replica_offsets().size() + table.current_.replica_slots().size();
  ASSIGN_OR_RETURN(table.buffer_, device->Allocate(words * sizeof(int32_t), "expert placement"));
  table.Upload();
  return table;
}

void PlacementTable::Upload() {
  std::vector<int32_t> words(current_.replica_offsets().begin(), current_.replica_offsets().end());
  words.insert(words.end(), current_.replica_slots().begin(), current_.replica_slots().end());
  device_->Upload(buffer_.data(), words.data(), words.size() * sizeof(int32_t));
}

absl::Status PlacementTable::Stage(Placement next) {
  if (next.shape() != current_.shape()) {
    return absl::InvalidArgumentError(absl::StrCat("a placement with ", next.shape().num_slots(),
                                                   " slots cannot replace one ", "with ",
                                                   current_.shape().num_slots()));
  }
  staged_.clear();
  staged_.push_back(std::move(next));
  return absl::OkStatus();
}

absl::Status PlacementTable::Flip() {
  if (staged_.empty()) return absl::FailedPreconditionError("no expert placement is staged");
  current_ = std::move(staged_.back());
  staged_.clear();
  ++version_;
  Upload();
  return absl::OkStatus();
}

PlacementTensors PlacementTable::tensors() const {
  const PlacementShape& shape = current_.shape();
  const auto offsets = static_cast<int64_t>(current_.replica_offsets().size());
  return {
      .replica_offsets = buffer_.View(DType::kI32, {offsets}),
      .replica_slots = buffer_.View(DType::kI32, {shape.num_slots()}, offsets * sizeof(int32_t)),
      .num_ranks = shape.num_ranks,
      .slots_per_rank = shape.slots_per_rank};
}

}  // namespace tessera
