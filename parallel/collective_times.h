// How long a rank spends in collective operations.
#ifndef TESSERA_PARALLEL_COLLECTIVE_TIMES_H_
#define TESSERA_PARALLEL_COLLECTIVE_TIMES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tessera {

enum class CollectiveOp : uint8_t {
  kAllReduce,
  kAllGather,  // to all ranks and to one
  kReduceScatter,
  kAllToAll,  // both variants
  kBroadcast,
  kBarrier,
};
inline constexpr size_t kNumCollectiveOps = 6;

// As metrics spell them.
inline constexpr std::array<std::string_view, kNumCollectiveOps> kCollectiveOpNames = {
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier"};

// Seconds per kind of operation, waiting for the other ranks included.
using CollectiveTimes = std::array<double, kNumCollectiveOps>;

}  // namespace tessera

#endif  // TESSERA_PARALLEL_COLLECTIVE_TIMES_H_
