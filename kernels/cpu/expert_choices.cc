// What the router chose: counts, and the slots of this rank.
#include <atomic>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/operations.h"

namespace tessera::cpu {

void CountChoices(const Context& /*context*/, const CountChoicesArgs& args) {
  const int32_t* ids = args.ids.as<int32_t>();
  auto* counts = args.counts.as<int64_t>();
  const auto experts = static_cast<uint32_t>(args.counts.dim(0));
  const int64_t pairs = args.ids.num_elements();
  for (int64_t i = 0; i < pairs; ++i) {
    if (static_cast<uint32_t>(ids[i]) < experts) ++counts[ids[i]];
  }
}

void CountRows(const Context& /*context*/, const CountRowsArgs& args) {
  *args.total.as<int64_t>() += *args.num_rows.as<int32_t>();
}

void SumCounts(const Context& /*context*/, const SumCountsArgs& args) {
  const auto* counts = args.counts.as<int64_t>();
  *args.sum.as<int64_t>() = std::accumulate(counts, counts + args.counts.dim(0), int64_t{0});
}

absl::Status LocalSlots(const Context& context, const LocalSlotsArgs& args) {
  const PlacementView placement = args.placement.view();
  const int64_t tokens = args.ids.dim(0);
  const int64_t top_k = args.ids.dim(1);
  std::atomic<int32_t> unknown{-1};
  context.For(tokens, static_cast<double>(tokens * top_k) * 4, [&](int64_t t) {
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      const int32_t id = args.ids.as<int32_t>()[i];
      int32_t local = -1;
      if (id >= placement.num_experts) {
        unknown.store(id, std::memory_order_relaxed);
      } else if (id >= 0) {
        const int32_t slot = SharedSlot(placement, id, t);
        if (slot / placement.slots_per_rank == args.rank) local = slot % placement.slots_per_rank;
      }
      args.slots.as<int32_t>()[i] = local;
    }
  });
  if (unknown.load() < 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("rank ", args.rank, ": the router chose expert ",
                                          unknown.load(), " of ", placement.num_experts));
}

}  // namespace tessera::cpu
