#include "absl/strings/str_cat.h"
#include "kernels/ref/ref_ops.h"

namespace tessera::ref {

void CountChoices(const CountChoicesArgs& args) {
  for (int64_t i = 0; i < args.ids.num_elements(); ++i) {
    const int32_t id = args.ids.as<int32_t>()[i];
    if (id >= 0 && id < args.counts.dim(0)) ++args.counts.as<int64_t>()[id];
  }
}

void CountRows(const CountRowsArgs& args) {
  *args.total.as<int64_t>() += *args.num_rows.as<int32_t>();
}

void SumCounts(const SumCountsArgs& args) {
  int64_t sum = 0;
  for (int64_t i = 0; i < args.counts.dim(0); ++i) sum += args.counts.as<int64_t>()[i];
  *args.sum.as<int64_t>() = sum;
}

absl::Status LocalSlots(const LocalSlotsArgs& args) {
  const PlacementView placement = args.placement.view();
  for (int64_t i = 0; i < args.ids.num_elements(); ++i) {
    const int32_t id = args.ids.as<int32_t>()[i];
    if (id >= placement.num_experts) {
      return absl::InternalError(absl::StrCat("rank ", args.rank, ": the router chose expert ", id,
                                              " of ", placement.num_experts));
    }
    int32_t& local = args.slots.as<int32_t>()[i];
    local = -1;
    if (id < 0) continue;
    const int32_t slot = SharedSlot(placement, id, i / args.ids.dim(1));
    if (slot / placement.slots_per_rank == args.rank) local = slot % placement.slots_per_rank;
  }
  return absl::OkStatus();
}

}  // namespace tessera::ref
