// What --moe-comm=auto decides by: both ways of communicating, timed at start.
#include <algorithm>
#include <array>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/model/moe.h"

namespace tessera {
namespace {

constexpr std::array<int64_t, 5> kMeasuredTokens = {1, 8, 64, 512, 4096};
constexpr int kRepeats = 5;

}  // namespace

absl::Status MoeBlock::MeasureCommunication(int32_t max_tokens) {
  std::vector<MoeCommCost> costs;
  for (int64_t tokens : kMeasuredTokens) {
    if (tokens > max_tokens) break;
    MoeCommCost cost{.tokens = tokens};
    ASSIGN_OR_RETURN(cost.all_reduce, TimeCommunication(tokens, false));
    ASSIGN_OR_RETURN(cost.all_to_all, TimeCommunication(tokens, true));
    costs.push_back(cost);
  }
  costs_ = std::move(costs);
  return absl::OkStatus();
}

// Seconds, the median of some repeats, mean over the ranks: the same number on all of them, so that
// all decide alike.
absl::StatusOr<double> MoeBlock::TimeCommunication(int64_t tokens, bool all_to_all) {
  Device& device = ops_.device();
  const int64_t part = std::max<int64_t>(1, tokens / shard_.tp_size);
  const int64_t k = config_.num_experts_per_tok;
  // Token t chooses experts t * k, t * k + 1, …: spread as evenly as a router can.
  std::vector<int32_t> ids(part * k);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % config_.num_experts);
  device.Upload(expert_ids_.data(), ids.data(), ids.size() * sizeof(int32_t));
  const int64_t groups = shard_.dp_size;
  std::array<double, kRepeats> seconds{};
  for (double& elapsed : seconds) {
    links_.world->Barrier();
    RETURN_IF_ERROR(device.Synchronize());
    const absl::Time start = absl::Now();
    if (all_to_all) {
      DispatchedRows rows =
          dispatcher_->Dispatch(owned_.Rows(0, part), {.ids = expert_ids_.Rows(0, part),
                                                       .weights = expert_weights_.Rows(0, part),
                                                       .placement = placement_.get(),
                                                       .capacity = part});
      const TensorView y = expert_out_.Rows(0, rows.max_rows);
      dispatcher_->Combine(std::move(rows.handle), y, owned_.Rows(0, part));
      if (links_.tp != nullptr) {
        links_.tp->AllGather(owned_.Rows(0, part), summed_.Rows(0, part * shard_.tp_size));
      }
    } else {
      if (links_.dp != nullptr) {
        links_.dp->AllGather(summed_.Rows(0, tokens), gathered_.Rows(0, groups * tokens));
      }
      links_.world->AllReduce(summed_.Rows(0, groups * tokens));
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
  return median / links_.world->size();
}

}  // namespace tessera
