#include "engine/model/moe_comm_choice.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/model/buffer_set.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "parallel/communicator.h"

namespace tessera {
namespace {

constexpr int kRepeats = 5;

// What was measured for steps of one kind.
struct Votes {
  double sum = 0;
  int count = 0;
  double mean() const { return count == 0 ? 0.0 : sum / count; }
};

// Measures on one rank, together with the others.
class Stopwatch {
 public:
  Stopwatch(Communicator& world, Device& device)
      : world_(world), device_(device), buffers_(device) {}

  absl::Status Prepare() {
    ASSIGN_OR_RETURN(mean_, buffers_.New(DType::kF32, 1, 1, "a communication cost"));
    return absl::OkStatus();
  }

  // Seconds, the median of some repeats, mean over the ranks: the same number on all of them.
  absl::StatusOr<float> Time(const MoeCommTrial& trial, int64_t tokens) {
    std::array<double, kRepeats> seconds{};
    for (double& elapsed : seconds) {
      world_.Barrier();
      RETURN_IF_ERROR(device_.Synchronize());
      const absl::Time start = MonotonicNow();
      trial(tokens);
      RETURN_IF_ERROR(device_.Synchronize());
      elapsed = absl::ToDoubleSeconds(MonotonicNow() - start);
    }
    std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
    auto median = static_cast<float>(seconds[kRepeats / 2]);
    device_.Upload(mean_.data(), &median, sizeof(median));
    world_.AllReduce(mean_);
    device_.Download(&median, mean_.data(), sizeof(median));
    RETURN_IF_ERROR(device_.Synchronize());
    return median / static_cast<float>(world_.size());
  }

  // Every rank's table against that of rank 0.
  absl::Status Compare(absl::Span<const MoeCommCost> mine) {
    static_assert(std::is_trivially_copyable_v<MoeCommCost>);
    const int32_t ranks = world_.size();
    const auto bytes = static_cast<int64_t>(mine.size() * sizeof(MoeCommCost));
    const int64_t words = bytes / static_cast<int64_t>(sizeof(int32_t));
    ASSIGN_OR_RETURN(const TensorView own,
                     buffers_.New(DType::kI32, 1, words, "communication costs"));
    ASSIGN_OR_RETURN(const TensorView all,
                     buffers_.New(DType::kI32, ranks, words, "communication costs"));
    device_.Upload(own.data(), mine.data(), bytes);
    world_.AllGather(own, all);
    std::vector<MoeCommCost> tables(mine.size() * ranks);
    device_.Download(tables.data(), all.data(), bytes * ranks);
    RETURN_IF_ERROR(device_.Synchronize());
    return CheckSameCosts(tables, ranks);
  }

 private:
  Communicator& world_;
  Device& device_;
  BufferSet buffers_;
  TensorView mean_;  // [1, 1] f32
};

}  // namespace

bool PrefersAllToAll(absl::Span<const MoeCommCost> costs) {
  Votes decode;
  Votes prefill;
  for (const MoeCommCost& cost : costs) {
    const double both = double{cost.all_reduce} + double{cost.all_to_all};
    if (both <= 0) continue;  // nothing to tell apart
    Votes& votes = cost.tokens <= kDecodeSizedTokens ? decode : prefill;
    votes.sum += (double{cost.all_reduce} - double{cost.all_to_all}) / both;
    ++votes.count;
  }
  return decode.mean() + prefill.mean() > 0;
}

absl::StatusOr<MoeCommChoice> ChooseMoeComm(const MoeCommTrials& trials, Communicator& world,
                                            Device& device) {
  Stopwatch stopwatch(world, device);
  RETURN_IF_ERROR(stopwatch.Prepare());
  MoeCommChoice choice;
  for (int64_t tokens : kMoeCommTokens) {
    if (tokens > trials.max_tokens) break;
    MoeCommCost cost{.tokens = tokens};
    ASSIGN_OR_RETURN(cost.all_reduce, stopwatch.Time(trials.all_reduce, tokens));
    ASSIGN_OR_RETURN(cost.all_to_all, stopwatch.Time(trials.all_to_all, tokens));
    choice.costs.push_back(cost);
  }
  RETURN_IF_ERROR(stopwatch.Compare(choice.costs));
  choice.all_to_all = PrefersAllToAll(choice.costs);
  return choice;
}

absl::Status CheckSameCosts(absl::Span<const MoeCommCost> tables, int32_t num_ranks) {
  const size_t entries = tables.size() / num_ranks;
  for (int32_t rank = 1; rank < num_ranks; ++rank) {
    if (tables.subspan(rank * entries, entries) == tables.subspan(0, entries)) continue;
    return absl::InternalError(absl::StrCat("rank ", rank, " measured other communication costs ",
                                            "than rank 0; use --moe-comm=allreduce or alltoall"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
