#include "engine/model/moe_comm_cost.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/model/moe.h"

namespace tessera {
namespace {

constexpr std::array<int64_t, 5> kMeasuredTokens = {1, 8, 64, 512, 4096};
constexpr int kRepeats = 5;

}  // namespace

bool PrefersAllToAll(absl::Span<const MoeCommCost> costs, int64_t tokens) {
  const auto at_least = std::find_if(
      costs.begin(), costs.end(), [&](const MoeCommCost& cost) { return cost.tokens >= tokens; });
  return at_least == costs.end() ? costs.back().prefers_all_to_all()
                                 : at_least->prefers_all_to_all();
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

absl::Status MoeBlock::MeasureCommunication(int32_t max_tokens) {
  std::vector<MoeCommCost> costs;
  for (int64_t tokens : kMeasuredTokens) {
    if (tokens > max_tokens) break;
    MoeCommCost cost{.tokens = tokens};
    ASSIGN_OR_RETURN(cost.all_reduce, TimeCommunication(tokens, false));
    ASSIGN_OR_RETURN(cost.all_to_all, TimeCommunication(tokens, true));
    costs.push_back(cost);
  }
  RETURN_IF_ERROR(CompareCosts(costs));
  costs_ = std::move(costs);
  return absl::OkStatus();
}

absl::Status MoeBlock::CompareCosts(absl::Span<const MoeCommCost> mine) {
  static_assert(std::is_trivially_copyable_v<MoeCommCost>);
  const int32_t ranks = links_.world->size();
  const auto bytes = static_cast<int64_t>(mine.size() * sizeof(MoeCommCost));
  const int64_t words = bytes / static_cast<int64_t>(sizeof(int32_t));
  BufferSet buffers(ops_.device());
  ASSIGN_OR_RETURN(const TensorView own, buffers.New(DType::kI32, 1, words, "communication costs"));
  ASSIGN_OR_RETURN(const TensorView all,
                   buffers.New(DType::kI32, ranks, words, "communication costs"));
  ops_.device().Upload(own.data(), mine.data(), bytes);
  links_.world->AllGather(own, all);
  std::vector<MoeCommCost> tables(mine.size() * ranks);
  ops_.device().Download(tables.data(), all.data(), bytes * ranks);
  RETURN_IF_ERROR(ops_.device().Synchronize());
  return CheckSameCosts(tables, ranks);
}

// Seconds, the median of some repeats, mean over the ranks: the same number on all of them, so that
// all decide alike.
absl::StatusOr<float> MoeBlock::TimeCommunication(int64_t tokens, bool all_to_all) {
  Device& device = ops_.device();
  const int64_t part = RowsPerRank(tokens, shard_.tp_size);
  const bool divided = shard_.dp_size > 1 || WorthDividing(tokens, shard_.tp_size);
  const int64_t k = config_.num_experts_per_tok;
  // Token t chooses experts t * k, t * k + 1, …: spread as evenly as a router can.
  std::vector<int32_t> ids(part * k);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % config_.num_experts);
  device.Upload(expert_ids_.data(), ids.data(), ids.size() * sizeof(int32_t));
  std::array<double, kRepeats> seconds{};
  for (double& elapsed : seconds) {
    links_.world->Barrier();
    RETURN_IF_ERROR(device.Synchronize());
    const absl::Time start = absl::Now();
    if (all_to_all) {
      DispatchedRows rows =
          dispatcher_->Dispatch(owned_.Rows(0, part), {.ids = expert_ids_.Rows(0, part),
                                                       .weights = expert_weights_.Rows(0, part),
                                                       .placement = &balance_->any_placement(),
                                                       .capacity = part});
      const TensorView y = expert_out_.Rows(0, rows.max_rows);
      dispatcher_->Combine(std::move(rows.handle), y, owned_.Rows(0, part));
    } else if (divided) {
      const int64_t all = part * links_.world->size();
      const TensorView& gathered = shard_.dp_size > 1 ? gathered_ : expert_out_;
      links_.world->AllGather(owned_.Rows(0, part), gathered.Rows(0, all));
      links_.world->ReduceScatter(summed_.Rows(0, all), owned_.Rows(0, part));
    } else {
      links_.world->AllReduce(summed_.Rows(0, tokens));
    }
    RETURN_IF_ERROR(device.Synchronize());
    elapsed = absl::ToDoubleSeconds(absl::Now() - start);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
  auto median = static_cast<float>(seconds[kRepeats / 2]);
  const TensorView shared(router_logits_.data(), DType::kF32, {1});
  device.Upload(shared.data(), &median, sizeof(median));
  links_.world->AllReduce(shared);
  device.Download(&median, shared.data(), sizeof(median));
  RETURN_IF_ERROR(device.Synchronize());
  return median / static_cast<float>(links_.world->size());
}

}  // namespace tessera
