#include "parallel/experts/placement.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "parallel/experts/load_statistics.h"
#include "tests/parallel/experts/dispatch_case.h"

namespace tessera {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(PlacementTest, EvenSpreadsExpertsInOrder) {
  const auto placement = Placement::Even({.num_experts = 4, .num_ranks = 2, .slots_per_rank = 3});
  ASSERT_TRUE(placement.ok()) << placement.status();
  EXPECT_THAT(placement->slot_experts(), ElementsAre(0, 1, -1, 2, 3, -1));
  EXPECT_THAT(placement->Replicas(2), ElementsAre(3));
  EXPECT_FALSE(Placement::Even({.num_experts = 5, .num_ranks = 2, .slots_per_rank = 3}).ok());
}

TEST(PlacementTest, RefusesInvalidAssignments) {
  const PlacementShape shape{.num_experts = 2, .num_ranks = 2, .slots_per_rank = 2};
  const auto message = [&shape](std::vector<int32_t> slots) {
    return std::string(Placement::Create(shape, std::move(slots)).status().message());
  };
  EXPECT_TRUE(Placement::Create(shape, {0, 1, 1, 0}).ok());
  EXPECT_THAT(message({0, -1, 0, -1}), HasSubstr("expert 1 has no slot"));
  EXPECT_THAT(message({0, 0, 1, -1}), HasSubstr("holds expert 0 twice"));
  EXPECT_THAT(message({0, 2, 1, -1}), HasSubstr("slot 1 names expert 2"));
  EXPECT_THAT(message({0, 1, -1}), HasSubstr("lists 3 slots"));
  EXPECT_THAT(std::string(Placement::Even({.num_experts = 9, .num_ranks = 2, .slots_per_rank = 4})
                              .status()
                              .message()),
              HasSubstr("at least 5 slots"));
}

TEST(BalanceTest, ReplicasShareTheLoadOfTheirExpert) {
  const auto placement =
      Placement::Create({.num_experts = 3, .num_ranks = 2, .slots_per_rank = 2}, {0, 1, 0, 2});
  ASSERT_TRUE(placement.ok());
  const std::vector<double> loads = {8, 1, 3};
  EXPECT_THAT(PredictRankLoads(*placement, loads), ElementsAre(5, 7));
  EXPECT_DOUBLE_EQ(BalanceRatio(PredictRankLoads(*placement, loads)), 6.0 / 7.0);
  EXPECT_DOUBLE_EQ(BalanceRatio(std::vector<double>{0, 0}), 1.0);
}

// Whatever the loads: the proposal is valid, no worse than what it replaces by its own measure,
// and within the classic bound of longest-first packing when experts may be replicated.
TEST(ProposePlacementTest, RandomLoads) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    TestRandom random(seed);
    const int32_t ranks = 1 + random.Below(8);
    const int32_t per_rank = 1 + random.Below(16);
    const PlacementShape shape{.num_experts = ranks * per_rank,
                               .num_ranks = ranks,
                               .slots_per_rank = per_rank + random.Below(4)};
    const auto current = Placement::Even(shape);
    std::vector<double> loads(shape.num_experts);
    for (double& load : loads) load = random.Below(5) == 0 ? random.Below(1000) : random.Below(10);
    const auto proposed = ProposePlacement(*current, loads);
    ASSERT_TRUE(proposed.ok()) << proposed.status();
    const auto rank_loads = PredictRankLoads(*proposed, loads);
    const double largest = *std::max_element(rank_loads.begin(), rank_loads.end());
    const double mean =
        std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(ranks);
    double largest_replica = 0;
    for (int32_t e = 0; e < shape.num_experts; ++e) {
      EXPECT_GE(proposed->Replicas(e).size(), 1U);
      largest_replica =
          std::max(largest_replica, loads[e] / static_cast<double>(proposed->Replicas(e).size()));
    }
    const auto now = PredictRankLoads(*current, loads);
    EXPECT_LE(largest,
              std::max(mean + largest_replica, *std::max_element(now.begin(), now.end())) + 1e-9);
  }
}

// A router that sends half of everything to one expert: with two spare slots per rank the maximum
// comes within 15 % of the mean.
TEST(ProposePlacementTest, SkewedRouterBecomesBalanced) {
  const PlacementShape shape{.num_experts = 32, .num_ranks = 4, .slots_per_rank = 10};
  const auto current = Placement::Even(shape);
  std::vector<double> loads(32, 100);
  loads[5] = 3100;
  const auto proposed = ProposePlacement(*current, loads);
  ASSERT_TRUE(proposed.ok());
  EXPECT_LT(BalanceRatio(PredictRankLoads(*current, loads)), 0.5);
  EXPECT_GT(BalanceRatio(PredictRankLoads(*proposed, loads)), 1 / 1.15);
  EXPECT_EQ(proposed->Replicas(5).size(), 4U);
  EXPECT_TRUE(WorthMoving(*current, *proposed, loads));
  EXPECT_FALSE(WorthMoving(*proposed, *current, loads));
}

TEST(ProposePlacementTest, BalancedLoadsMoveNothing) {
  const PlacementShape shape{.num_experts = 8, .num_ranks = 4, .slots_per_rank = 2};
  const auto current = Placement::Even(shape);
  const std::vector<double> loads(8, 10);
  const auto proposed = ProposePlacement(*current, loads);
  ASSERT_TRUE(proposed.ok());
  EXPECT_FALSE(WorthMoving(*current, *proposed, loads));
}

TEST(ProposePlacementTest, RefusesBadLoads) {
  const auto current = Placement::Even({.num_experts = 2, .num_ranks = 1, .slots_per_rank = 2});
  EXPECT_FALSE(ProposePlacement(*current, std::vector<double>{1}).ok());
  EXPECT_FALSE(ProposePlacement(*current, std::vector<double>{1, -1}).ok());
  EXPECT_FALSE(ProposePlacement(*current, std::vector<double>{1, std::nan("")}).ok());
}

TEST(PlacementTableTest, StagesThenFlips) {
  TestDevice device;
  const PlacementShape shape{.num_experts = 2, .num_ranks = 2, .slots_per_rank = 1};
  auto table = PlacementTable::Create(&device, *Placement::Even(shape));
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->Flip().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(table->Stage(*Placement::Create(shape, {1, 0})).ok());
  EXPECT_EQ(table->current().ExpertOf(0), 0);
  ASSERT_TRUE(table->Flip().ok());
  EXPECT_EQ(table->current().ExpertOf(0), 1);
  EXPECT_EQ(table->version(), 1);
  EXPECT_FALSE(
      table->Stage(*Placement::Even({.num_experts = 2, .num_ranks = 1, .slots_per_rank = 2})).ok());
  int32_t slot_of_first = 0;
  device.Download(&slot_of_first, table->tensors().replica_slots.data(), sizeof(slot_of_first));
  ASSERT_TRUE(device.Synchronize().ok());
  EXPECT_EQ(slot_of_first, 1);
}

// All ranks hold all tokens: every choice is computed by exactly one of them, on a slot that holds
// its expert.
TEST(PlacementTableTest, LocalSlotsShareEveryChoiceOnce) {
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const int ranks = static_cast<int>(seed % 5) + 1;
    const DispatchCase drawn = DrawCase(seed, ranks, DType::kF32);
    std::vector<int> computed(drawn.ids[0].size(), 0);
    for (int rank = 0; rank < ranks; ++rank) {
      TestDevice device;
      auto table =
          PlacementTable::Create(&device, *Placement::Create(drawn.shape, drawn.slot_experts));
      ASSERT_TRUE(table.ok()) << table.status();
      TestTensor<int32_t> ids(&device, DType::kI32, {drawn.tokens[0], drawn.top_k}, drawn.ids[0]);
      TestTensor<int32_t> local(&device, DType::kI32, {drawn.tokens[0], drawn.top_k});
      TestExpertOps ops(&device);
      ops.LocalSlots(
          {.placement = table->tensors(), .rank = rank, .ids = ids.view(), .slots = local.view()});
      const std::vector<int32_t> slots = local.Get();
      for (size_t i = 0; i < slots.size(); ++i) {
        if (slots[i] < 0) continue;
        ++computed[i];
        EXPECT_EQ(table->current().ExpertOf(rank * drawn.shape.slots_per_rank + slots[i]),
                  drawn.ids[0][i]);
      }
    }
    for (size_t i = 0; i < computed.size(); ++i) EXPECT_EQ(computed[i], drawn.ids[0][i] >= 0);
  }
}

// Ranks count different tokens; all see the same sums, smoothed.
TEST(LoadStatisticsTest, SumsOverRanksAndSmooths) {
  RunInproc(3, {}, TestDevice::Queue::kThread, [](Communicator& comm, Device& device) {
    TestExpertOps ops(&device);
    auto statistics = LoadStatistics::Create(
        &ops, {.num_layers = 2, .num_experts = 4, .num_ranks = 3, .smoothing = 0.5});
    ASSERT_TRUE(statistics.ok()) << statistics.status();
    TestTensor<int32_t> ids(&device, DType::kI32, {3, 2}, {0, comm.rank(), 3, -1, 4, -1});
    TestTensor<int64_t> so_far(&device, DType::kI64, {1});
    TestTensor<int32_t> rows(&device, DType::kI32, {1}, {10 + comm.rank()});
    (*statistics)->Record(1, ids.view());
    (*statistics)->RecordRows(0, rows.view());
    (*statistics)->RecordRows(0, rows.view());
    (*statistics)->SumRows(so_far.view());
    (*statistics)->Exchange(&comm);
    EXPECT_THAT(so_far.Get(), ElementsAre(20 + 2 * comm.rank()));
    (*statistics)->Collect();
    EXPECT_THAT((*statistics)->Loads(1), ElementsAre(4, 1, 1, 3));
    EXPECT_THAT((*statistics)->Loads(0), ElementsAre(0, 0, 0, 0));
    EXPECT_THAT((*statistics)->RankRows(0), ElementsAre(20, 22, 24));
    EXPECT_THAT((*statistics)->RankRows(1), ElementsAre(0, 0, 0));
    (*statistics)->Exchange(&comm);  // nothing happened since
    (*statistics)->Record(0, ids.view());
    (*statistics)->Exchange(&comm);  // another one is on its way while that one is collected
    ASSERT_TRUE(device.Synchronize().ok());
    (*statistics)->Collect();
    EXPECT_THAT((*statistics)->Loads(1), ElementsAre(2, 0.5, 0.5, 1.5));
    EXPECT_THAT((*statistics)->Totals(1), ElementsAre(4, 1, 1, 3));
    EXPECT_THAT((*statistics)->RankRows(0), ElementsAre(0, 0, 0));
    const auto placement = Placement::Create(
        {.num_experts = 4, .num_ranks = 3, .slots_per_rank = 2}, {0, 1, 2, -1, 3, -1});
    EXPECT_DOUBLE_EQ((*statistics)->BalanceOf(1, *placement), 4.5 / 3 / 2.5);
    (*statistics)->Collect();
    EXPECT_THAT((*statistics)->Loads(0), ElementsAre(2, 0.5, 0.5, 1.5));
    EXPECT_EQ((*statistics)->num_exchanges(), 3);
  });
}

TEST(LoadStatisticsTest, OneRankNeedsNobody) {
  TestDevice device;
  TestExpertOps ops(&device);
  auto statistics = LoadStatistics::Create(&ops, {.num_layers = 1, .num_experts = 2});
  ASSERT_TRUE(statistics.ok()) << statistics.status();
  TestTensor<int32_t> ids(&device, DType::kI32, {2, 1}, {1, 1});
  for (int64_t total : {2, 4}) {
    (*statistics)->Record(0, ids.view());
    (*statistics)->Exchange(nullptr);
    ASSERT_TRUE(device.Synchronize().ok());
    (*statistics)->Collect();
    EXPECT_THAT((*statistics)->Loads(0), ElementsAre(0, 2));
    EXPECT_THAT((*statistics)->Totals(0), ElementsAre(0, total));
  }
}

TEST(LoadStatisticsTest, RefusesNonsense) {
  TestDevice device;
  TestExpertOps ops(&device);
  EXPECT_FALSE(LoadStatistics::Create(&ops, {.num_layers = 0, .num_experts = 4}).ok());
  EXPECT_FALSE(
      LoadStatistics::Create(&ops, {.num_layers = 1, .num_experts = 4, .smoothing = 0}).ok());
}

}  // namespace
}  // namespace tessera
