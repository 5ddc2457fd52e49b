#include "engine/executor/rank_connector.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// GPUs connect while their ranks load, and not all at the same time.
constexpr absl::Duration kConnectTimeout = absl::Minutes(2);

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> RankConnector::Join(const std::string& name,
                                                                  const std::vector<int>& ranks,
                                                                  const Rank& member) {
  if (ranks.size() == 1) return nullptr;
  const Topology& rank = member.topology;
  const auto position =
      static_cast<int>(std::find(ranks.begin(), ranks.end(), rank.rank()) - ranks.begin());
  const auto size = static_cast<int>(ranks.size());
  const int node = rank.node();
  const bool local = std::all_of(ranks.begin(), ranks.end(),
                                 [&](int other) { return other / rank.ranks_per_node() == node; });
  if (!local)
    return options_.remote.connect({.name = name, .rank = position, .size = size}, member.device);
  GpuTransport* gpus = nullptr;
  ASSIGN_OR_RETURN(gpus, Gpus());
  if (gpus != nullptr) {
    return gpus->Join({.name = name,
                       .rank = position,
                       .size = size,
                       .connect_timeout = std::max(options_.timeout, kConnectTimeout),
                       .timeout = options_.timeout},
                      member.device);
  }
  std::shared_ptr<InprocGroup> group;
  {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<InprocGroup>& shared = groups_[name];
    if (shared == nullptr) {
      shared = CreateInprocGroup(size, {.timeout = options_.timeout, .bell = options_.bell});
    }
    group = shared;
  }
  return JoinInprocGroup(std::move(group), position, member.device, member.shared_seat);
}

void RankConnector::Abort(const absl::Status& reason) {
  {
    absl::MutexLock lock(&mutex_);
    aborted_.Update(reason);
    if (gpus_ != nullptr) gpus_->Abort(aborted_);
  }
  if (options_.remote.abort) options_.remote.abort(reason);
}

absl::StatusOr<GpuTransport*> RankConnector::Gpus() {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(aborted_);
  if (gpus_ == nullptr) {
    ASSIGN_OR_RETURN(gpus_, CreateGpuTransport(options_.backend));
  }
  return gpus_.get();
}

absl::StatusOr<RankLinks> RankConnector::Connect(const Rank& member) {
  const Topology& rank = member.topology;
  RankLinks links;
  links.moe_comm = options_.moe_comm;
  // All ranks connect their groups in this order, so nobody waits in a circle.
  ASSIGN_OR_RETURN(links.tp, Join(absl::StrCat("tp", rank.dp_rank()), rank.TpGroup(), member));
  ASSIGN_OR_RETURN(links.world, Join("world", rank.WorldGroup(), member));
  return links;
}

}  // namespace tessera
